"""Putting the page together: every section is made from the datasets that are there, and left out without them."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from flows.provenance import notices
from flows.provenance.run_history import OtherRun, notices_of_run, run_before, store_of
from flows.report import FOLDER, cards, documents, learning, origin, verdict
from flows.report.changes import changes
from flows.report.distributions import distributions
from flows.report.sankey import sankey
from flows.stages import document_path, holds_documents, in_order
from infra.progress import describe_bytes
from infra.store.dataset import Dataset
from infra.store.files import write_bytes
from infra.store.store import Store
from pipeline.charts import Line, colours_of, line_chart

Datasets = Mapping[str, Dataset]
T = TypeVar("T")
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

log = logging.getLogger("headwater")


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    model: str
    question: str
    answer: str


def write_page(
    datasets: Datasets,
    path: Path,
    *,
    replies: Sequence[Reply] = (),
    comparisons: Sequence[Mapping[str, Any]] = (),
    samples: int = 3,
) -> None:
    """Write the report on these datasets (by stage name; any subset) as one self-contained file.

    ``comparisons`` are rows of models compared besides those that the stage ``evaluate`` compares.
    """
    path.write_bytes(as_bytes(render(datasets, replies, samples, comparisons)))


def as_bytes(page: str) -> bytes:
    """UTF-8. What no page can hold (halves of surrogate pairs, control characters) is replaced: it comes from documents."""
    return _UNFIT.sub("\ufffd", page).encode()


def leave_page(store: Store, datasets: Datasets, name: str, beside: Sequence[OtherRun] = ()) -> str:
    """Write the report on these datasets into the workspace, where its server shows it; returns the page's address."""
    address = f"{store.address}/{FOLDER}/{name}.html"
    write_bytes(address, as_bytes(render(datasets, beside=beside)))
    return address


def render(
    datasets: Datasets,
    replies: Sequence[Reply] = (),
    samples: int = 3,
    comparisons: Sequence[Mapping[str, Any]] = (),
    beside: Sequence[OtherRun] = (),
) -> str:
    """The page. ``beside`` are other runs, whose curves share the axes and of which the first is the one to compare with:
    without any, the recipe's last run."""
    shown = sections(datasets, replies, samples, comparisons, beside or _last_run(datasets))
    return template("report.html.j2").render(**shown)


@cache
def template(name: str) -> Template:
    """A page's template, with the filters that pages use."""
    environment = Environment(
        loader=PackageLoader("flows", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _count,
        "si": _si,
        "percent": _percent,
        "seconds": _seconds,
        "size": describe_bytes,
    }
    return environment.get_template(name)


def _last_run(datasets: Datasets) -> list[OtherRun]:
    store = store_of(datasets)
    before = run_before(store, datasets) if store is not None else None
    return [before] if before is not None else []


def sections(
    datasets: Datasets,
    replies: Sequence[Reply],
    samples: int,
    comparisons: Sequence[Mapping[str, Any]],
    beside: Sequence[OtherRun],
) -> dict[str, Any]:
    """Everything the template shows; a section without its datasets is None or empty.

    A section that cannot be made is left out and named on the page: figures that one stage has written in an unexpected
    form must not cost the report on all the others.
    """
    made = _Sections()
    fates: list[documents.StageFates] = made("documents", lambda: documents.stage_fates(datasets, samples), [])
    shards = made("tokens", lambda: learning.read_json_if(datasets.get("shards"), "data/stats.json"), None)
    order = documents.source_order(fates)
    colours = colours_of([*order, *(shards["mixture"] if shards else ())])
    # Documents that nothing but ingest has seen are no choice to show.
    last = next((each for each in reversed(document_path(datasets.values())[1:]) if holds_documents(each)), None)
    losing = [stage for stage in fates if stage.gone]
    cards_made = made("alignment", lambda: cards.alignment(datasets, samples, beside), [])
    shown = {
        "made": origin.run_facts(datasets),
        "said": made("settings", lambda: recipe_notices(datasets), []),
        "missing": notices.missing(datasets),
        "changes": made("since the last run", lambda: changes(datasets, beside[0] if beside else None), None),
        "checks": made("verdict", lambda: verdict.checks(datasets, fates), []),
        "headlines": made("headlines", lambda: headlines(datasets, fates), []),
        "fates": fates,
        "losing": columns(losing, lambda stage: min(12, len(stage.ranked)) + 3),
        "sources": order,
        "languages": made("languages", lambda: documents.by_language(datasets), None),
        "colours": colours,
        "sankey": made("sankey", lambda: sankey(documents.sankey_stages(fates), colours), Markup("")),
        "distributions": made("length and scores", lambda: distributions(datasets, colours), []),
        "kept": made("kept documents", lambda: documents.kept_samples(last, samples) if last else [], []),
        "classifier": made("classifier", lambda: classifier(datasets), None),
        "dedup": made("duplicates", lambda: dedup(datasets, fates), None),
        "decontaminate": made("leaks", lambda: decontaminate(datasets, samples), None),
        "redact": datasets["redact"].manifest.stats.get("masked") if "redact" in datasets else None,
        "tokenizer": made(
            "tokenizer", lambda: learning.read_json_if(datasets.get("tokenizer"), "data/report.json"), None
        ),
        "shards": shards,
        "pretrain": made("pretraining", lambda: pretrain(datasets, colours, beside), None),
        "alignment": columns(cards_made, cards.height),
        "evaluation": made("evaluation", lambda: evaluation(datasets, comparisons), None),
        "chat": chat(replies),
        "graph": origin.graph(datasets),
        "rows": origin.dataset_rows(datasets),
    }
    return {**shown, "warnings": [*notices.warnings(datasets), *made.failures]}


@dataclass
class _Sections:
    """Makes sections, and remembers those that could not be made, as warnings."""

    failures: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, name: str, make: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return make()
        except Exception as error:
            log.warning("the report's section %r could not be made", name, exc_info=True)
            self.failures.append(("report", f"the section {name!r} could not be made: {type(error).__name__}: {error}"))
            return otherwise


def recipe_notices(datasets: Datasets) -> list[str]:
    """What the plan of the run said of the recipe's settings: a language that alone is kept, a source without rules."""
    store, run = store_of(datasets), origin.run_facts(datasets)
    return notices_of_run(store, run.run) if store is not None and run is not None and run.run else []


def columns(items: Sequence[T], height: Callable[[T], float]) -> list[list[T]]:
    """Items in two columns of about the same height, each next one where there is more room."""
    found: list[list[T]] = [[], []]
    heights = [0.0, 0.0]
    for item in items:
        shorter = heights.index(min(heights))
        found[shorter].append(item)
        heights[shorter] += height(item)
    return found if items else []


def headlines(datasets: Datasets, fates: Sequence[documents.StageFates]) -> list[tuple[str, str]]:
    """The big numbers at the top."""
    found: list[tuple[str, str]] = []
    if fates:
        found.append((_count(fates[0].incoming), "records read"))
        found.append((_count(fates[-1].kept), "documents kept"))
    shards = learning.read_json_if(datasets.get("shards"), "data/stats.json")
    if shards:
        found.append((_si(shards["total_tokens"]), "training tokens"))
    if "pretrain" in datasets:
        stats = datasets["pretrain"].manifest.stats
        if stats.get("parameters"):
            found.append((_si(stats["parameters"]), "parameters"))
    total = sum(origin.seconds_of(dataset) for dataset in datasets.values())
    if total:
        found.append((_seconds(total), "of work"))
    return found


def classifier(datasets: Datasets) -> dict[str, Any] | None:
    figures = learning.read_json_if(datasets.get("classifier"), "data/report.json")
    if not figures:
        return None
    bands = [(band["score"], band["good"]) for band in figures["calibration"]]
    chart = line_chart(
        [Line("perfect", [(0, 0), (1, 1)], "m2", dashed=True), Line("this classifier", bands, "m0", dots=True)],
        x="score",
        y="share that is good",
        describe="Calibration: share of good texts by score",
        x_range=(0, 1),
        y_range=(0, 1.02),
    )
    return {**figures, "chart": chart}


def dedup(datasets: Datasets, fates: Sequence[documents.StageFates]) -> dict[str, Any] | None:
    dataset = next((each for each in in_order(datasets.values()) if each.kind == "dedup"), None)
    if dataset is None:
        return None
    stats = dataset.manifest.stats
    lsh = stats.get("lsh")
    chart = Markup("")
    if lsh:
        points = [(point["similarity"], point["probability"]) for point in lsh["curve"]]
        chart = line_chart(
            [Line("chance to be nominated", points, "m0")],
            x="Jaccard similarity of a pair",
            y="probability",
            describe="Chance that a pair is nominated, by its similarity",
            y_range=(0, 1.02),
        )
    stage = next(stage for stage in fates if stage.name == dataset.name)
    pairs = [sample for sample in stage.samples if sample.survivor]
    return {"lsh": lsh, "chart": chart, "verification": stats.get("verification"), "stage": stage, "pairs": pairs}


def decontaminate(datasets: Datasets, samples: int) -> dict[str, Any] | None:
    dataset = datasets.get("decontaminate")
    if dataset is None:
        return None
    evidence: list[dict[str, Any]] = []
    for output in dataset.files("evidence/", ".parquet"):
        if output.rows and len(evidence) < 2 * samples:
            evidence += learning.first_rows(dataset.local(output.path), 2 * samples - len(evidence))
    return {"evaluations": dataset.manifest.stats.get("evaluations") or {}, "evidence": evidence}


def pretrain(datasets: Datasets, colours: Mapping[str, str], beside: Sequence[OtherRun] = ()) -> dict[str, Any] | None:
    dataset = datasets.get("pretrain")
    if dataset is None:
        return None
    shards = learning.read_json_if(datasets.get("shards"), "data/stats.json")
    entropy = shards["unigram_entropy_nats"] if shards else None
    lines = learning.metrics_of(dataset)
    others = cards.others_of("pretrain", datasets, beside)
    return {
        "stats": dataset.manifest.stats,
        "refused": notices.refused_steps(dataset),
        "loss": learning.loss_chart(lines, entropy, others),
        "course": learning.course_charts(lines, others),
        "validation": learning.validation_chart(lines, colours, others),
    }


def evaluation(datasets: Datasets, comparisons: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any] | None:
    figures = learning.read_json_if(datasets.get("evaluate"), "data/evaluation.json") or {}
    if not figures and not comparisons:
        return None
    return {
        "tasks": learning.task_tables(figures.get("tasks", [])),
        "comparisons": learning.task_tables([*comparisons, *figures.get("comparisons", [])], mark=0.0),
    }


def chat(replies: Sequence[Reply]) -> list[tuple[str, list[Reply]]]:
    """Replies by question."""
    questions = dict.fromkeys(reply.question for reply in replies)
    return [(question, [reply for reply in replies if reply.question == question]) for question in questions]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _si(value: float) -> str:
    for bound, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.3g} {suffix}"
    return f"{value:.3g}" if value != int(value) else f"{int(value)}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    if value < 3600:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{int(value) // 3600} h {int(value) % 3600 // 60:02d} min"
