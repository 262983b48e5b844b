"""The parts of a report: charts, samples, verdicts, comparisons with other runs, and what is missing."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.provenance.run_history import OtherRun
from flows.report.changes import changes
from flows.report.distributions import distributions
from flows.report.documents import by_language, kept_samples, source_order, stage_fates
from flows.report.graph import Node, lineage_graph
from flows.report.learning import read_lines
from flows.report.page import Reply, as_bytes, columns, render, write_page
from flows.report.sankey import SankeyStage, sankey
from flows.report.verdict import checks
from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.charts import (
    REST,
    colours_of,
)
from pipeline.document import document_writer
from tests.flows.report.conftest import drop, estimate, lines, publish, verdicts, with_stats
from tests.markup import EVIL, parse
from tests.pipeline.corpus import document
from tests.support import adopt_dataset, write_dataset


def test_the_sankey_is_as_wide_as_the_documents_are_many() -> None:
    flow = [
        SankeyStage("ingest", {"web": 60, "code": 40}, {"web": 30, "code": 40}, "rule"),
        SankeyStage("quality", {"web": 30, "code": 40}, {"web": 0, "code": 40}),
    ]
    drawing = sankey(flow, {"web": "c0", "code": "c1"})
    assert "−30" in drawing and "ingest 100 in, 70 kept" in drawing
    assert sankey([], {}) == "" and sankey([SankeyStage("x", {}, {})], {}) == ""


def test_a_graph_shows_the_shortest_account_of_the_inputs_and_breaks_long_chains() -> None:
    chain = [Node(f"s{number}", "", [f"s{other}" for other in range(number)]) for number in range(15)]
    drawing = lineage_graph(chain)
    assert drawing.count('class="edge"') == 14 and drawing.count('class="box ') == 15
    assert lineage_graph([]) == "" and lineage_graph([Node("a", "", ["elsewhere"])]).count("edge") == 0


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


def with_manifest(dataset: Dataset, **changes: Any) -> Dataset:
    path = dataset.local("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return Dataset.open(dataset.root)


# ---- one colour a source ---------------------------------------------------------------------------------------------


def test_no_two_sources_share_a_colour_and_a_source_has_one_on_the_whole_page(datasets) -> None:
    names = [f"source-{number}" for number in range(12)]
    assert len(set(colours_of(names).values())) == 12
    many = colours_of([*names, "one-more"])
    assert [name for name, colour in many.items() if colour == REST] == ["source-11", "one-more"]
    assert len({colour for colour in many.values() if colour != REST}) == 11
    page = render(datasets)
    assert set(re.findall(r'<span class="swatch (\w+)"></span><span>web</span>', page)) == {"c0"}
    assert '<path class="line c0"' not in page, "a curve that is no source's has no source's colour"


# ---- samples -----------------------------------------------------------------------------------------------------


def test_kept_samples_are_drawn_at_random_and_always_the_same(tmp_path: Path) -> None:
    rows = [document("web", number, f"Text number {number}.") for number in range(200)]
    dataset = publish(tmp_path / "dedup", "dedup", rows, [])
    first = kept_samples(dataset, 8)
    numbers = sorted(int(re.findall(r"\d+", sample.excerpt)[0]) for sample in first)
    assert len(set(numbers)) == 8 and numbers != list(range(8)) and max(numbers) > 50
    steps = {after - before for before, after in pairwise(numbers)}
    assert len(steps) > 1, "not every twenty-fifth either"
    assert kept_samples(dataset, 8) == first
    assert len(kept_samples(dataset, 500)) == 200


def test_dropped_samples_are_drawn_at_random_from_all_files_and_always_the_same(tmp_path: Path) -> None:
    rows = [document("web", number, f"Text number {number}.") for number in range(300)]
    kept = publish(tmp_path / "ingest", "ingest", rows, [])
    fates = [drop(row, "quality", "language" if number % 2 else "short") for number, row in enumerate(rows[:200])]
    dropped = publish(tmp_path / "quality", "quality", rows[200:], fates, "ingest")
    found = {"ingest": kept, "quality": dropped}
    samples = stage_fates(found, samples=4)[1].samples
    assert sorted(sample.rule for sample in samples) == ["language"] * 4 + ["short"] * 4
    numbers = [int(sample.url.rsplit("/", 1)[1]) for sample in samples]
    assert len(set(numbers)) == 8 and max(numbers) > 40, "not the first of the file"
    assert stage_fates(found, samples=4)[1].samples == samples
    assert stage_fates(found, samples=0)[1].samples == []


# ---- verdict -------------------------------------------------------------------------------------------------------


def evaluated(
    root: Path, losses: dict[str, float], gap: float = 0.05, paired: dict[str, float] | None = None
) -> Dataset:
    tasks = [
        {"model": model, "task": "heldout", "metric": "nats_per_token", **estimate(value, value - gap, value + gap)}
        for model, value in losses.items()
    ]
    comparisons = [
        {"model": pair, "task": "web", "metric": "bits_per_byte", **estimate(value, value - 0.01, value + 0.01)}
        for pair, value in (paired or {}).items()
    ]
    content = {"models": list(losses), "tasks": tasks, "comparisons": comparisons}
    return write_dataset(root, "evaluate", {"data/evaluation.json": json.dumps(content).encode()})


@pytest.mark.parametrize(
    ("losses", "gap", "paired", "state"),
    [
        ({"pretrain": 5.49, "dpo": 6.71}, 0.1, {}, "doubtful"),
        ({"pretrain": 5.49, "sft": 5.40, "dpo": 6.71}, 0.1, {}, "doubtful"),
        ({"pretrain": 5.49, "sft": 5.50, "ppo": 5.51, "dpo": 5.50}, 0.1, {}, "good"),
        ({"pretrain": 5.49, "sft": 5.30}, 0.01, {}, "good"),
        # Wide intervals say nothing; the difference on the same texts does.
        ({"pretrain": 5.49, "sft": 5.80}, 0.4, {}, "good"),
        ({"pretrain": 5.49, "sft": 5.80}, 0.4, {"sft - pretrain": 0.2}, "doubtful"),
    ],
)
def test_the_verdict_is_amber_where_a_later_stage_forgets(tmp_path, losses, gap, paired, state) -> None:
    found = checks({"evaluate": evaluated(tmp_path, losses, gap, paired)}, [])
    [check] = [check for check in found if "eld-out text" in check.title]
    assert check.state == state
    if state == "doubtful":
        assert check.title == "Later stages make held-out text worse" and "→" in check.figures
    if losses.get("dpo") == 6.71:
        assert "dpo 6.71" in check.figures


def test_one_model_alone_has_nothing_to_be_compared_with(tmp_path) -> None:
    assert not checks({"evaluate": evaluated(tmp_path, {"pretrain": 5.0})}, [])


@pytest.mark.parametrize(("held", "state"), [(1, "good"), (20, "doubtful")])
def test_refused_steps_are_said(datasets, held: int, state: str) -> None:
    pretrain = with_stats(datasets["pretrain"], {**datasets["pretrain"].manifest.stats, "held_steps": held})
    assert verdicts({"pretrain": pretrain})["Some steps were not applied"] == state
    assert f"{held} step" in render({"pretrain": pretrain})


# ---- what is missing -------------------------------------------------------------------------------------------------

LOST = {
    "unit": "a" * 16, "step": "read", "error": f"broken {EVIL}", "attempts": 3, "files": ["part-077.jsonl"],
    "bytes": 1834, "records": None,
}  # fmt: skip


def test_an_incomplete_dataset_is_said_first_with_its_files(datasets) -> None:
    units = {"total": 120, "ok": 119, "failed": [LOST]}
    warned = ["incomplete: 1 of 120 units failed", f"the archive ended early: 497 of 954 records {EVIL}"]
    broken = with_manifest(datasets["ingest"], units=units, warnings=warned)
    page = render({**datasets, "ingest": broken})
    assert parse(page).wrong == [] and EVIL not in page
    assert "ingest is incomplete" in page and "part-077.jsonl" in page and "1,834" in page and "unknown" in page
    assert "497 of 954" in page
    assert page.index("ingest is incomplete") < page.index("records read")
    found = {check.title: check for check in checks({**datasets, "ingest": broken}, [])}
    assert found["Data is missing"].state == "bad"
    assert "1 of 120 units, 1,834 bytes, records unknown" in found["Data is missing"].figures
    assert found["1 warning"].state == "doubtful", "the loss itself has its own line"


def test_a_complete_run_is_not_accused(datasets) -> None:
    page = render(datasets)
    assert "incomplete" not in page.split("</style>")[1] and "warning" not in page.split("</style>")[1]


@pytest.mark.parametrize("records", [2, None])  # known beforehand, or by what the stage before handed on
def test_documents_in_lost_units_are_accounted_for(tmp_path: Path, records: int | None) -> None:
    rows = [document("web", number, f"Text {number}") for number in range(6)]
    before = publish(tmp_path / "ingest", "ingest", rows, [])
    after = publish(tmp_path / "dedup", "dedup", rows[:4], [])
    counts = {"incoming": 6, "kept": 4, "dropped": {}, "failed": 2}
    after = with_manifest(after, counts=counts, units={"total": 3, "ok": 2, "failed": [{**LOST, "records": records}]})
    found = {"ingest": before, "dedup": after}
    states = {check.title: check.state for check in checks(found, stage_fates(found, 0))}
    assert states["Not every document was read"] == "bad" and "Documents are unaccounted for" not in states


# ---- since the last run ------------------------------------------------------------------------------------------------


def test_what_changed_stands_first_with_its_reason(datasets, tmp_path: Path) -> None:
    def payload(least: int) -> dict[str, Any]:
        return {"stage": "quality", "code_version": 1, "config": {"least": least}, "inputs": {}}

    old = publish(
        tmp_path / "old", "quality", [document("web", n, f"Text number {n}.") for n in range(5)],
        [drop(document("web", n, "x"), "quality", "language") for n in range(5, 10)],
    )  # fmt: skip
    old = with_manifest(old, payload=payload(10), output_digest="1" * 64)
    new = with_manifest(datasets["quality"], payload=payload(50))
    beside = OtherRun("demo-20261126-120000-abcd", {"ingest": datasets["ingest"], "quality": old})
    found = changes({"ingest": datasets["ingest"], "quality": new}, beside)
    assert found is not None and found.kept == ("ingest",)
    assert [each.stage for each in found.remade] == ["quality"] and "least" in found.remade[0].reason
    moved = {figure.name: (figure.before, figure.now, figure.change) for figure in found.figures}
    assert moved["documents kept"] == ("5", "8", "+3 (+60.0%)")
    assert moved["dropped by language"] == ("50.0%", "0.0%", "-50.0 points")
    page = render({"ingest": datasets["ingest"], "quality": new}, beside=[beside])
    assert page.index("Since the last run") < page.index("records read") and "demo-20261126-120000-abcd" in page
    assert parse(page).wrong == []
    same = render({"ingest": datasets["ingest"]}, beside=[OtherRun("r", {"ingest": datasets["ingest"]})])
    assert "Every dataset is the one of that run" in same


def test_a_difference_within_the_intervals_is_not_called_one(tmp_path: Path) -> None:
    now = evaluated(tmp_path / "now", {"pretrain": 5.0, "sft": 6.0})
    before = evaluated(tmp_path / "before", {"pretrain": 5.05, "sft": 5.5})
    found = changes({"evaluate": now}, OtherRun("r", {"evaluate": before}))
    assert found is not None
    assert [(figure.name, figure.tone) for figure in found.figures] == [("sft on heldout, nats per token", "worse")]


def test_runs_share_the_axes(datasets, tmp_path: Path) -> None:
    content = lines(*({"loss": 7 - step * 0.05, "lr": 0.1, "grad_norm": 1.0} for step in range(40)))
    other = write_dataset(tmp_path / "other", "pretrain", {"data/metrics.jsonl": content})
    page = render({"pretrain": datasets["pretrain"]}, beside=[OtherRun("the-run-before", {"pretrain": other})])
    assert re.search(r'<path class="line dashed m2" d="M[^"]*L', page)
    assert "the-run-before: 7" in page, "the other run's values are in the words of the chart"
    own = render({"pretrain": datasets["pretrain"]}, beside=[OtherRun("r", {"pretrain": datasets["pretrain"]})])
    assert "line dashed" not in own.split("</style>")[1]


# ---- charts ----------------------------------------------------------------------------------------------------------


def test_the_course_of_a_training_is_drawn_with_the_steps_that_were_refused(tmp_path: Path) -> None:
    rows = [{"loss": 5.0, "lr": 0.001 * step, "grad_norm": 0.7, "tokens_per_s": 100.0 + step} for step in range(50)]
    rows[17] |= {"held": "gradient norm 9.00 is far above", "grad_norm": 9.0}
    page = render({"pretrain": write_dataset(tmp_path / "p", "pretrain", {"data/metrics.jsonl": lines(*rows)})})
    for title in ("Learning rate", "Gradient norm", "Throughput"):
        assert f"<h3>{title}</h3>" in page
    assert "not applied: 18 → 9" in page
    assert parse(page).wrong == []


def test_lengths_and_scores_stand_beside_their_thresholds(datasets, tmp_path: Path) -> None:
    path = tmp_path / "a" / "data" / "web" / "0000.parquet"
    path.parent.mkdir(parents=True)
    words = [3, 40, 60, 800, 90_000, None]
    quality = [0.1, 0.2, 0.9, 1.0, 0.5, 0.5]
    table = pa.table({"words": pa.array(words, pa.int32()), "quality": pa.array(quality, pa.float32())})
    pq.write_table(table, path)
    measured = adopt_dataset(tmp_path / "a", "attributes", [describe_file(tmp_path / "a", "data/web/0000.parquet")])
    rules = {"source": "web", "presets": ["gopher_quality"], "thresholds": {"gopher_words_min": 33}}
    judged = with_manifest(
        datasets["quality"], config={"sources": [rules]}, stats={"classifier_thresholds": {"web": 0.35}}
    )
    found = {
        each.title: each.chart for each in distributions({"attributes": measured, "quality": judged}, {"web": "c3"})
    }
    length, score = found["words in a document"], found["score of the classifier"]
    assert "web: 5" in length and "gopher_words_min 33" in length and 'class="bin c3"' in length
    assert "classifier 0.35" in score and "web: 6" in score
    assert distributions({"attributes": measured}, {}) and distributions({"quality": judged}, {}) == []


# ---- hostile and broken content ----------------------------------------------------------------------------------------

ANYTHING = st.text(st.characters(codec=None), max_size=40)


@settings(max_examples=60, deadline=None)
@given(name=ANYTHING, text=ANYTHING)
def test_no_text_breaks_the_page_or_gets_out_of_its_place(name: str, text: str) -> None:
    page = as_bytes(render({}, [Reply(name, text, name + EVIL)], comparisons=[
        {"model": name, "task": text + EVIL, "metric": "bits_per_byte", **estimate(0.1, 0.0, 0.2)}
    ])).decode()  # fmt: skip
    parsed = parse(page)
    assert parsed.wrong == [] and parsed.open == [] and parsed.scripts == 0 and parsed.loading == []
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", page)


def test_a_document_with_half_a_surrogate_pair_costs_no_page(datasets, tmp_path: Path) -> None:
    write_page(datasets, tmp_path / "p.html", replies=[Reply("sft", "\ud800", "\x00\x1b[31m‮abc")])
    assert "�" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_one_stage_with_unexpected_figures_does_not_cost_the_others(datasets, tmp_path: Path) -> None:
    odd = write_dataset(tmp_path / "odd", "classifier", {"data/report.json": b'{"calibration": 7}'})
    torn = write_dataset(tmp_path / "torn", "pretrain", {"data/metrics.jsonl": b'{"step": 1, "loss"'})
    page = render({**datasets, "classifier": odd, "pretrain": torn})
    assert "the section &#39;classifier&#39; could not be made" in page
    assert "the section &#39;pretraining&#39; could not be made" in page
    assert "gopher_words_min" in page and parse(page).wrong == []
    assert "could not be made" not in render(datasets)


def test_many_sources_with_long_names_have_a_place(tmp_path: Path) -> None:
    rows = [document("web", number, f"Text {number}") for number in range(3)]
    root = tmp_path / "ingest"
    outputs = []
    for number in range(30):
        path = f"data/source-{number}-{'x' * 60}/0000.parquet"
        (root / path).parent.mkdir(parents=True)
        with document_writer(root / path) as target:
            for row in rows[: 1 + number % 3]:
                target.write(row)
        outputs.append(describe_file(root, path))
    total = sum(1 + number % 3 for number in range(30))
    page = render({"ingest": adopt_dataset(root, "ingest", outputs, Counts(total, total))})
    assert "22 more" in page and parse(page).wrong == [] and 'class="band rest"' in page


def test_a_long_training_is_read_in_part_with_all_that_matters(tmp_path: Path) -> None:
    rows = [{"loss": 5.0 - step / 1e4, "tokens": 512} for step in range(10_000)]
    rows[777] |= {"held": "too high"}
    rows.insert(5000, {"bits_per_byte/web": 1.5})
    (tmp_path / "m.jsonl").write_bytes(lines(*rows))
    found = read_lines(tmp_path / "m.jsonl", most=100)
    assert 100 <= len(found) <= 103
    assert [line for line in found if "held" in line] and [line for line in found if "bits_per_byte/web" in line]
    assert len(read_lines(tmp_path / "m.jsonl", most=20_000)) == 10_001 and read_lines(tmp_path / "none") == []
