"""The report: works with whatever is there, tells the truth about it, escapes everything, loads nothing."""

import json
import re
from typing import Any

import pytest

from flows.report.documents import sankey_stages, stage_fates
from flows.report.page import Reply, render, write_page
from flows.report.stage import STAGE, ReportConfig
from tests.flows.report.conftest import estimate, verdicts, with_stats
from tests.markup import EVIL, parse
from tests.support import run_shard_stage, write_dataset


def test_what_a_model_says_before_and_after_stands_on_its_card(datasets) -> None:
    def said(finished: float, tokens: float) -> dict[str, Any]:
        return {
            "finished": estimate(finished, 0, 1),
            "reply_tokens": estimate(tokens, 1, 99),
            "repeated": estimate(0.02, 0, 1),
        }

    generation = {"limit": 128, "before": said(0.99, 24), "after": said(0.63, 87)}
    page = render({"dpo": with_stats(datasets["dpo"], {"generation": generation})})
    assert "replies that end within 128 tokens" in page and "99% → 63%" in page and "24 → 87" in page


REPLIES = [Reply("sft", f"Hi {EVIL}", f"Hello {EVIL}"), Reply("ppo", f"Hi {EVIL}", "")]


def test_the_whole_page_is_well_formed_escaped_and_loads_nothing(datasets) -> None:
    page = render(datasets, REPLIES)
    parsed = parse(page)
    assert parsed.wrong == [] and parsed.open == []
    assert parsed.scripts == 0 and EVIL not in page and "&lt;script&gt;" in page
    assert parsed.loading == []
    assert not re.search(r"url\((?!#)|@import|<link|<img|<iframe", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("names", [[], ["ingest"], ["tokenizer"], ["shards"], ["pretrain"], ["ppo"], ["evaluate"],
                                   ["ingest", "quality", "dedup", "shards"]])  # fmt: skip
def test_any_subset_of_stages_makes_a_page(datasets, names) -> None:
    parsed = parse(render({name: datasets[name] for name in names}))
    assert parsed.wrong == [] and parsed.open == []


def test_what_fine_tuning_learns_is_marked(datasets) -> None:
    page = render({"sft": datasets["sft"]})
    assert "<mark>fine &lt;script&gt;" in page and "en 75%, de 25%" in page and "4 (2 – 9)" in page


def test_how_often_quality_was_seen_is_on_the_page(datasets) -> None:
    page = render({"shards": datasets["shards"]})
    assert "from 50 %" in page and "0.625" in page and "quality from" in page


def test_every_stage_alone_makes_a_page(datasets) -> None:
    for name, dataset in datasets.items():
        assert parse(render({name: dataset})).wrong == []


def test_samples_show_the_text_that_was_dropped_and_what_stayed_instead(datasets) -> None:
    stages = {stage.name: stage for stage in stage_fates(datasets, samples=2)}
    dropped = stages["quality"].samples
    assert [sample.rule for sample in dropped] == ["gopher_words_min"] * 2
    assert {sample.excerpt[:13] for sample in dropped} == {"Text number 8", "Text number 9"}
    assert dropped[0].score == 3.0 and dropped[0].threshold == 50.0
    assert stages["dedup"].samples[0].survivor == "https://web.example/0"


def test_counts_by_stage_rule_and_source_are_those_of_the_ledgers(datasets) -> None:
    stages = {stage.name: stage for stage in stage_fates(datasets, samples=0)}
    assert stages["quality"].ranked == [("gopher_words_min", 2)]
    assert stages["quality"].kept_by_source == {"web": 8} and stages["dedup"].kept_by_source == {"web": 7}
    flow = sankey_stages([stages["ingest"], stages["quality"], stages["dedup"]])
    assert [(stage.arrived, stage.stayed) for stage in flow] == [(10, 10), (10, 8), (8, 7)]


def test_the_verdict_calls_only_certain_things_certain(datasets) -> None:
    found = verdicts(datasets)
    assert found["Every document has a fate"] == "good"
    assert found["The model beats word frequencies"] == "good"
    assert found["PPO raises the reward"] == "good"
    assert found["DPO prefers the chosen replies"] == "doubtful"  # 0.4 to 0.8 around 0.5


def test_the_verdict_admits_failure(datasets, tmp_path) -> None:
    lost = {"ingest": datasets["ingest"], "dedup": datasets["dedup"]}
    assert verdicts(lost) == {"Documents are unaccounted for": "bad"}
    worse = {"accuracy": estimate(0.3, 0.2, 0.4), "margin": -0.1}
    reward = write_dataset(tmp_path / "worse", "reward", {"data/reward.json": json.dumps(worse).encode()})
    assert verdicts({"reward": reward}) == {"The reward model is better than chance": "bad"}


def test_the_page_is_written_by_the_stage_and_left_out_of_its_digest(datasets, tmp_path) -> None:
    inputs = {name: datasets[name] for name in ("ingest", "quality", "dedup")}
    config = ReportConfig(stages=("ingest", "quality", "dedup"))
    assert dict(STAGE.inputs(config)) == {name: name for name in inputs}
    published = run_shard_stage(STAGE, config, inputs, tmp_path / "run")
    assert parse(published.local("data/report.html").read_text()).wrong == []
    assert [output.digested for output in published.files()] == [False]
    write_page(inputs, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_comparison_made_by_hand_is_shown(datasets) -> None:
    row = {"model": f"pretrain:20 - pretrain:40 {EVIL}", "task": "web", "metric": "bits_per_byte"}
    page = render(datasets, comparisons=[row | estimate(0.123, 0.1, 0.2)])
    assert "pretrain:20 - pretrain:40" in page and "+0.123" in page and EVIL not in page
    alone = render({"ingest": datasets["ingest"]}, comparisons=[row | estimate(0.123, 0.1, 0.2)])
    assert "+0.123" in alone and "+0.123" not in render(datasets)
