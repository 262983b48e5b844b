"""The report: works with whatever is there, tells the truth about it, escapes everything, loads nothing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.report import STAGE, ReportConfig, write_page
from flows.report.charts import Level, Series, line_chart, smooth, thin, ticks
from flows.report.documents import by_language, source_order, stage_fates, stations
from flows.report.graph import Node, lineage_graph
from flows.report.page import Reply, columns, render
from flows.report.river import Station, river
from flows.report.verdict import checks
from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.document import document_writer
from pipeline.ledger import Fate, ledger_writer
from tests.pipeline.corpus import document
from tests.support import adopt_dataset, run_shard_stage, write_dataset

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Balance(HTMLParser):
    """Collects tags that are not closed in order, and every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loading: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action") or (name == "href" and not (value or "").startswith("#")):
                self.loading.append(f"{tag} {name}={value}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Elements like ``<line/>`` close themselves."""

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def parse(page: str) -> Balance:
    found = Balance()
    found.feed(page)
    return found


def publish(root: Path, name: str, kept: list, fates: list[Fate], before: str | None = None) -> Dataset:
    """A document stage's dataset: one file of one source, with its ledger."""
    outputs = []
    for folder, writer, rows in (("data", document_writer, kept), ("ledger", ledger_writer, fates)):
        path = f"{folder}/web/0000.parquet"
        (root / path).parent.mkdir(parents=True)
        with writer(root / path) as target:
            for row in rows:
                target.write(row)
        outputs.append(describe_file(root, path))
    rules: dict[str, int] = {}
    for fate in fates:
        rules[fate["rule"]] = rules.get(fate["rule"], 0) + 1
    dataset = adopt_dataset(root, name, outputs, Counts(len(kept) + len(fates), len(kept), rules))
    if before is not None:
        record = {"role": before, "name": before, "fingerprint": "0" * 12, "digest": "0" * 64}
        manifest = json.loads((root / "manifest.json").read_text())
        (root / "manifest.json").write_text(json.dumps({**manifest, "inputs": [record]}))
        dataset = Dataset.open(str(root))
    return dataset


def drop(entry: dict[str, Any], stage: str, rule: str, **more: Any) -> Fate:
    identity = {"id": entry["id"], "url": entry["url"], "source": "web"}
    return {**identity, "stage": stage, "verdict": "dropped", "rule": rule, **more}  # type: ignore[return-value]


def with_stats(dataset: Dataset, stats: dict[str, Any]) -> Dataset:
    path = dataset.local("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "stats": stats}))
    return Dataset.open(dataset.root)


def estimate(value: float, low: float, high: float, n: int = 50) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps({"step": step, **row}) + "\n" for step, row in enumerate(rows, 1)).encode()


@pytest.fixture
def datasets(tmp_path) -> dict[str, Dataset]:
    """A run of every stage that has figures, small and made up, with hostile words wherever words can be."""
    entries = [document("web", number, f"Text number {number}. {EVIL}") for number in range(10)]
    found = {
        "ingest": publish(tmp_path / "ingest", "ingest", entries, []),
        "quality": publish(
            tmp_path / "quality", "quality", entries[:8],
            [drop(entry, "quality", "gopher_words_min", score=3.0, threshold=50.0) for entry in entries[8:]], "ingest",
        ),
        "dedup": publish(
            tmp_path / "dedup", "dedup", entries[:7],
            [drop(entries[7], "dedup", "near_duplicate", score=0.9, survivor_id=entries[0]["id"])], "quality",
        ),
    }  # fmt: skip
    lsh = {"bands": 14, "rows": 8, "measure": "jaccard", "threshold": 0.8, "curve": [
        {"similarity": 0.1 * step, "probability": 0.1 * step} for step in range(11)
    ]}  # fmt: skip
    verification = {"pairs": 3, "verified": 1, "rejected": 2, "undecided": 0}
    found["dedup"] = with_stats(found["dedup"], {"lsh": lsh, "verification": verification})

    def add(name: str, files: dict[str, Any], stats: dict[str, Any] | None = None) -> None:
        content = {path: data if isinstance(data, bytes) else json.dumps(data).encode() for path, data in files.items()}
        found[name] = with_stats(write_dataset(tmp_path / name, name, content), stats or {})

    source = {
        "documents": 5, "bytes": 500, "words": 100, "tokens": 150, "byte_tokens": 1, "lossy": 0, "hub_differs": 0,
        "tokens_per_word": 1.5, "bytes_per_token": 3.3, "byte_token_share": 0.01, "measured_on": "sample",
    }  # fmt: skip
    add("tokenizer", {"data/report.json": {"vocab_size": 500, "sources": {"web": source}}})
    add("shards", {"data/stats.json": {
        "total_tokens": 900, "tokens": {"web": 900}, "sequences": 4, "seq_len": 256, "packing_efficiency": 0.97,
        "unigram_entropy_nats": 5.0, "validation": {"web": {"documents": 1, "tokens": 30, "bytes": 100}},
        "mixture": {"web": {"available_tokens": 900, "rate": 1.0, "planned_share": 1.0, "share": 1.0}},
    }})  # fmt: skip
    losses = lines(*({"loss": 6 - step * 0.05} for step in range(40)), {"bits_per_byte/web": 2.5})
    add("pretrain", {"data/metrics.jsonl": losses}, {
        "parameters": 1_000_000, "tokens": 9000, "ranks": 2, "device": "cpu", "loss_last": 4.0,
        "bits_per_byte": {"web": 2.5},
    })  # fmt: skip
    add("sft", {"data/metrics.jsonl": lines({"loss": 3.0}, {"loss": 2.5, "validation_loss": 2.6})},
        {"conversations": 40, "validation_loss": 2.6, "validation_loss_before": 3.4})  # fmt: skip
    accuracy = {"accuracy": estimate(0.8, 0.7, 0.9), "margin": 0.2, "mean": 0.0, "std": 1.0}
    add("reward", {"data/reward.json": accuracy, "data/metrics.jsonl": lines({"accuracy": 0.5}, {"accuracy": 0.8})})
    rewards = {"sft": estimate(0.1, 0, 0.2), "ppo": estimate(0.3, 0.2, 0.4), "gain": estimate(0.2, 0.1, 0.3)}
    add("ppo", {"data/reward_eval.json": {"reward": rewards, "kl": estimate(1.0, 0.5, 1.5)},
                "data/metrics.jsonl": lines({"reward": 0.1, "kl": 0.0}, {"reward": 0.3, "kl": 1.0})})  # fmt: skip
    add("dpo", {"data/dpo.json": {"accuracy": estimate(0.6, 0.4, 0.8), "margin": estimate(0.1, 0.0, 0.2)},
                "data/metrics.jsonl": lines({"margin": 0.0}, {"margin": 0.1})})  # fmt: skip
    row = {"task": EVIL, "metric": "bits_per_byte", **estimate(2.0, 1.9, 2.1)}
    nats = {"task": "heldout", "metric": "nats_per_token"}
    add("evaluate", {"data/evaluation.json": {
        "models": ["pretrain"],
        "tasks": [{"model": "pretrain", **row}, {"model": "pretrain", **nats, **estimate(4.0, 3.9, 4.1)},
                  {"model": "unigram", **nats, **estimate(5.0, 5.0, 5.0)}],
        "comparisons": [{"model": "sft - pretrain", **row}],
    }})  # fmt: skip
    return found


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


def test_every_stage_alone_makes_a_page(datasets) -> None:
    for name, dataset in datasets.items():
        assert parse(render({name: dataset})).wrong == []


def test_samples_show_the_text_that_was_dropped_and_what_stayed_instead(datasets) -> None:
    stages = {stage.name: stage for stage in stage_fates(datasets, samples=2)}
    dropped = stages["quality"].samples
    assert [sample.rule for sample in dropped] == ["gopher_words_min"] * 2
    assert dropped[0].excerpt.startswith("Text number 8") and dropped[0].score == 3.0 and dropped[0].threshold == 50.0
    assert stages["dedup"].samples[0].survivor == "https://web.example/0"


def test_counts_by_stage_rule_and_source_are_those_of_the_ledgers(datasets) -> None:
    stages = {stage.name: stage for stage in stage_fates(datasets, samples=0)}
    assert stages["quality"].ranked == [("gopher_words_min", 2)]
    assert stages["quality"].kept_by_source == {"web": 8} and stages["dedup"].kept_by_source == {"web": 7}
    flow = stations([stages["ingest"], stages["quality"], stages["dedup"]])
    assert [(station.arrived, station.stayed) for station in flow] == [(10, 10), (10, 8), (8, 7)]


def verdicts(datasets: dict[str, Dataset]) -> dict[str, str]:
    stages = stage_fates({name: datasets[name] for name in datasets if name != "shards"}, samples=0)
    return {check.title: check.state for check in checks(datasets, stages)}


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


def test_the_river_is_as_wide_as_the_documents_are_many() -> None:
    flow = [
        Station("ingest", {"web": 60, "code": 40}, {"web": 30, "code": 40}, "rule"),
        Station("quality", {"web": 30, "code": 40}, {"web": 0, "code": 40}),
    ]
    drawing = river(flow, {"web": 0, "code": 1})
    assert "−30" in drawing and "ingest 100 in, 70 kept" in drawing
    assert river([], {}) == "" and river([Station("x", {}, {})], {}) == ""


def test_a_graph_shows_the_shortest_account_of_the_inputs_and_breaks_long_chains() -> None:
    chain = [Node(f"s{number}", "", [f"s{other}" for other in range(number)]) for number in range(15)]
    drawing = lineage_graph(chain)
    assert drawing.count('class="edge"') == 14 and drawing.count('class="box ') == 15
    assert lineage_graph([]) == "" and lineage_graph([Node("a", "", ["elsewhere"])]).count("edge") == 0


def test_charts_survive_strange_numbers() -> None:
    assert line_chart([Series("a", [])], x="x", y="y", describe="") == ""
    assert line_chart([Series("a", [(0, float("nan"))])], x="x", y="y", describe="") == ""
    for points in ([(0, 0)], [(1, 5), (2, 5)], [(0, -1e12), (1, 1e12)], [(0, 1e-9), (1, float("inf")), (2, 2e-9)]):
        drawing = line_chart([Series(EVIL, points)], x=EVIL, y="y", describe=EVIL, levels=[Level(EVIL, 1.0)])
        assert "nan" not in drawing and "inf" not in drawing and EVIL not in drawing
        assert parse(drawing).wrong == []


@settings(max_examples=200, deadline=None)
@given(low=st.floats(-1e9, 1e9), width=st.floats(1e-6, 1e9), about=st.integers(2, 10))
def test_ticks_are_few_even_and_inside(low: float, width: float, about: int) -> None:
    high = low + width
    if not high - low > abs(low) * 1e-9:
        return
    found = ticks(low, high, about)
    assert len(found) <= about + 1
    assert all(low - width * 1e-6 <= value <= high + width * 1e-6 for value in found)


@given(number=st.integers(1, 3000), most=st.integers(2, 700))
def test_thinning_keeps_both_ends(number: int, most: int) -> None:
    points = [(float(index), 0.0) for index in range(number)]
    found = thin(points, most)
    assert len(found) <= max(most, 1) and found[0] == points[0] and found[-1] == points[-1]


def test_smoothing_stays_inside_the_values_and_skips_gaps() -> None:
    points = [(float(index), 1.0 + index % 2) for index in range(200)]
    found = smooth([*points, (200.0, float("nan"))])
    assert len(found) == 200 and all(1.0 <= value <= 2.0 for _, value in found)
    assert abs(found[-1][1] - 1.5) < 0.2


@given(heights=st.lists(st.integers(1, 20), max_size=20))
def test_columns_hold_every_card_once(heights: list[int]) -> None:
    found = columns(list(enumerate(heights)), lambda item: item[1])
    assert sorted(item for column in found for item in column) == list(enumerate(heights))


def test_sources_keep_one_order() -> None:
    assert source_order([]) == []


def attributes(root: Path, languages: list[str | None]) -> Dataset:
    path = root / "data" / "web" / "0000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"language": pa.array(languages, pa.string())}), path)
    return adopt_dataset(root, "attributes", [describe_file(root, "data/web/0000.parquet")])


def test_the_funnel_by_language(tmp_path: Path) -> None:
    measured = attributes(tmp_path / "a", ["en"] * 3 + ["de"] * 2 + [None])
    rows = [document("web", n, f"text {n}") | {"language": "en" if n < 2 else "de"} for n in range(3)]
    quality, dedup = publish(tmp_path / "q", "quality", rows, []), publish(tmp_path / "d", "dedup", rows[:2], [])
    datasets = {"attributes": measured, "quality": quality, "dedup": dedup}
    found = by_language(datasets)
    assert found is not None
    assert found.stages == ("quality", "dedup")
    assert found.rows == (("en", 3, (2, 2)), ("de", 2, (1, 0)), ("(unknown)", 1, (0, 0)))
    page = render(datasets)
    assert "Kept by language" in page
    assert not parse(page).wrong
    assert "Kept by language" not in render({"quality": quality})
