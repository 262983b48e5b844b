"""What a run will give and cost, before it begins: documents, tokens, disk and time for each stage of the data path.

A stage that was built before is forecast from its last dataset: what it kept of what it received, its bytes and seconds a
document. A workspace without one takes a small sample of the sources, reads it with the recipe's own settings and puts
the recipe's rules to it, in a few seconds. What neither can tell (duplicates, in a sample) is counted as kept, and said.
"""

import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.order import FIRST, hands_on
from flows.stages import LAST
from infra.errors import ConfigError, HeadwaterError
from infra.planning import Action, StagePlan
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store

if TYPE_CHECKING:
    from pipeline.document import Document
    from pipeline.sources.contract import SourceConfig
    from pipeline.sources.probe import Probe

SAMPLE_SECONDS = 6.0
MEASURED = "attributes"
"""It hands on no documents but numbers beside them."""
MOST_GROWTH = 20.0
"""Beyond so many times its bytes, an earlier dataset is a worse guide than a sample."""
CHARACTERS_A_TOKEN = 4.0
"""Where no tokenizer of this workspace says better."""


@dataclass(frozen=True)
class StageForecast:
    """One stage: documents in and kept, bytes written, seconds; None is not known. ``basis`` says where from."""

    stage: str
    incoming: int
    kept: int
    bytes: int | None
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Forecast:
    """The sum over the stages that have something to do; ``documents`` and ``tokens`` are what comes out at the end.

    All are None where nothing can be said; the notes say why.
    """

    stages: tuple[StageForecast, ...]
    documents: int | None
    tokens: int | None
    bytes: int | None
    seconds: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sample:
    """What a look at the sources tells."""

    incoming: float
    documents: float
    passed: float
    characters: float
    """Of the documents that pass the rules."""
    bytes_a_document: float
    read_seconds: float
    measure_seconds: float
    notes: tuple[str, ...]


def forecast(
    nodes: Sequence[StageNode], plans: Sequence[StagePlan], store: Store, label: str, workers: int
) -> Forecast | None:
    """None where nothing of the data path is to be done."""
    path = [node for node in nodes if hands_on(node) or node.kind in (MEASURED, LAST)]
    found = {node.name: plan for node in path for plan in plans if plan.stage == node.name}
    to_run = [name for name, plan in found.items() if plan.selected and plan.action in (Action.RUN, Action.RESUME)]
    if not to_run:
        return None
    earlier = {name: dataset for name in found if (dataset := _earlier(store, name, label)) is not None}
    by_name = {node.name: node for node in nodes}
    published = {plan.stage: plan.dataset for plan in plans if plan.dataset is not None}
    if "sample" in by_name and "sample" not in published and (other := _earlier(store, "sample", label)) is not None:
        published["sample"] = other
    before = found["ingest"].dataset or earlier.get("ingest") if "ingest" in found else None
    if before is not None:
        growth = _growth(by_name["ingest"], found["ingest"], before, published)
        if found["ingest"].dataset or (_same_sources(by_name["ingest"], before) and growth <= MOST_GROWTH):
            return _walk(path, found, earlier, before.manifest.counts.incoming * growth, None, workers)
        # Another recipe's sources, or a handful of documents, say nothing about these.
        earlier = {}
    sample = _sampled(by_name, published)
    if sample is None:
        return None
    if not sample.incoming:
        return Forecast((), None, None, None, None, sample.notes)
    return _walk(path, found, earlier, sample.incoming, sample, workers)


def _same_sources(node: StageNode, before: Dataset) -> bool:
    """Whether the dataset was read from sources of these names and kinds, wherever they lay."""
    config: Any = node.config
    then: Any = before.manifest.config.get("sources", ())
    return {(source.name, source.kind) for source in config.sources} == {
        (source["name"], source["kind"]) for source in then
    }


def _growth(node: StageNode, entry: StagePlan, before: Dataset, inputs: Mapping[str, Dataset]) -> float:
    """How many times the bytes of the last time the sources hold now; 1 where that takes the network to tell."""
    from pipeline.sources.probe import size_of

    if entry.dataset is not None or not before.manifest.stats.get("bytes"):
        return 1.0
    config: Any = node.config
    try:
        sizes = [size_of(source, inputs) for source in config.sources]
    except (HeadwaterError, OSError):
        return 1.0
    known = [size for size in sizes if size is not None]
    return sum(known) / before.manifest.stats["bytes"] if len(known) == len(sizes) else 1.0


def _earlier(store: Store, name: str, label: str) -> Dataset | None:
    try:
        return store.get_ref(name, label) or store.get_ref(name, "latest")
    except HeadwaterError:
        return None


def _walk(
    path: Sequence[StageNode],
    plans: Mapping[str, StagePlan],
    earlier: Mapping[str, Dataset],
    documents: float,
    sample: _Sample | None,
    workers: int,
) -> Forecast:
    rows: list[StageForecast] = []
    notes = list(sample.notes) if sample else []
    kept: dict[str, float] = {}
    arriving = documents
    for node in path:
        plan = plans[node.name]
        dataset = plan.dataset or earlier.get(plan.stage)
        if node.documents:
            documents = kept.get(node.documents, documents)
        elif node.name != FIRST and dataset is not None:  # another source of documents
            documents = dataset.manifest.counts.incoming
        else:
            documents = arriving
        if dataset is not None:
            row = _from_dataset(plan, dataset, documents)
        elif sample is not None:
            row = _from_sample(plan.stage, sample, documents, workers)
        else:
            row = StageForecast(plan.stage, round(documents), round(documents), None, None, "not built before")
        if row.basis == "not known":
            notes.append(f"what {row.stage} drops is not known: counted as kept")
        rows.append(row)
        kept[node.name] = documents = documents if node.kind in (MEASURED, LAST) else row.kept
    names = {plan.stage for plan in plans.values() if plan.selected and plan.action in (Action.RUN, Action.RESUME)}
    costs = [row for row in rows if row.stage in names]
    unknown = sorted(row.stage for row in costs if row.seconds is None)
    if unknown:
        notes.append(f"without the time and disk of {', '.join(unknown)}")
    last = next((node for node in path if node.kind == LAST), None)
    tokens = training_tokens(documents, earlier.get(LAST), sample, last)
    return Forecast(
        tuple(rows),
        round(documents),
        tokens,
        sum(row.bytes or 0 for row in costs),
        round(sum(row.seconds or 0.0 for row in costs), 1),
        tuple(notes),
    )


def _from_dataset(plan: StagePlan, dataset: Dataset, incoming: float) -> StageForecast:
    """By what the stage did with the documents it had then."""
    manifest = dataset.manifest
    share = incoming / manifest.counts.incoming if manifest.counts.incoming else 1.0
    done = plan.action == Action.SKIP
    seconds = 0.0 if done else round((manifest.provenance.ended - manifest.provenance.started) * share, 1)
    basis = "published" if done else f"as {dataset.name}/{manifest.fingerprint}"
    kept = round(manifest.counts.kept * share)
    return StageForecast(plan.stage, round(incoming), kept, round(manifest.bytes * share), seconds, basis)


def _from_sample(stage: str, sample: _Sample, incoming: float, workers: int) -> StageForecast:
    if stage == "ingest":
        size = round(sample.documents * sample.bytes_a_document)
        seconds = sample.read_seconds / workers
        return StageForecast(stage, round(incoming), round(sample.documents), size, round(seconds, 1), "sample")
    if stage == "attributes":
        seconds = sample.measure_seconds / workers
        return StageForecast(stage, round(incoming), round(incoming), None, round(seconds, 1), "sample")
    if stage == "quality":
        size = round(sample.passed * sample.bytes_a_document)
        return StageForecast(stage, round(incoming), round(sample.passed), size, None, "sample")
    return StageForecast(stage, round(incoming), round(incoming), None, None, "not known")


def training_tokens(documents: float, before: Dataset | None, sample: _Sample | None, node: StageNode | None) -> int:
    """What the mixture and its curves take of the tokens that such documents had the last time."""
    if before is not None and before.manifest.counts.incoming and "total_tokens" in before.manifest.stats:
        stats, growth = before.manifest.stats, documents / before.manifest.counts.incoming
        as_before = round(growth * float(stats["total_tokens"]))
        if node is None or node.config.append_to or "mixture" not in stats:  # type: ignore[attr-defined]
            return as_before
        from pipeline.shards.stage import planned

        available = {name: round(entry["available_tokens"] * growth) for name, entry in stats["mixture"].items()}
        try:
            phases = planned(node.config, available)  # type: ignore[arg-type]
        except ConfigError:  # it names other sources than there were
            return as_before
        return round(sum(entry.tokens for plan in phases for entry in plan.values()))
    if sample is not None and sample.passed:
        return round(documents * sample.characters / sample.passed / CHARACTERS_A_TOKEN)
    return 0


# ---- the sample -----------------------------------------------------------------------------------------------------


def _sampled(nodes: Mapping[str, StageNode], inputs: Mapping[str, Dataset]) -> _Sample | None:
    """A look at every source, with the recipe's settings for reading and its rules."""
    if "ingest" not in nodes:
        return None
    config: Any = nodes["ingest"].config
    total, packed, rows = _Sample(0, 0, 0, 0, 0, 0, 0, ()), 0, 0
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="headwater-forecast-") as scratch:
        look = _Look(nodes, inputs, Path(scratch), SAMPLE_SECONDS / len(config.sources))
        if "quality" in nodes and not look.detects_languages:
            notes.append("languages are not told apart: the identifier is not here yet")
        for source in config.sources:
            try:
                seen = look.at(source)
                if seen is None:
                    notes.append(f"{source.name} is not in the forecast: it cannot be looked at in a few seconds here")
                    continue
                look.judge(source.name, seen.documents[:1])  # loads what is loaded once
                started = time.monotonic()
                passed, characters = look.judge(source.name, seen.documents)
                measured = time.monotonic() - started
            except (HeadwaterError, OSError, ValueError) as error:
                notes.append(f"{source.name} is not in the forecast: {str(error)[:120]}")
                continue
            packed, rows = packed + _packed(seen.documents), rows + len(seen.documents)
            total = replace(
                total,
                incoming=total.incoming + seen.records * seen.scale,
                documents=total.documents + len(seen.documents) * seen.scale,
                passed=total.passed + passed * seen.scale,
                characters=total.characters + characters * seen.scale,
                read_seconds=total.read_seconds + seen.seconds * seen.scale,
                measure_seconds=total.measure_seconds + measured * seen.scale,
            )
    return replace(total, bytes_a_document=packed / max(1, rows), notes=tuple(notes))


@dataclass(frozen=True)
class _Look:
    """Reads and judges a few records as the stages would."""

    nodes: Mapping[str, StageNode]
    inputs: Mapping[str, Dataset]
    scratch: Path
    seconds: float

    def at(self, source: "SourceConfig") -> "Probe | None":
        """Some records of a source, read in this look's seconds; None where that is not possible."""
        from pipeline.ingest import language_model_of
        from pipeline.sources.contract import Reading
        from pipeline.sources.probe import probe

        config: Any = self.nodes["ingest"].config
        model = language_model_of(config, self.inputs, self.scratch)
        return probe(Reading(source, config.extract, model), self.inputs, self.seconds)

    @property
    def detects_languages(self) -> bool:
        """The identifier may be part of a dataset that is not there yet."""
        from infra.store.address import dataset_inputs

        settings: Any = self.nodes["attributes"].config if "attributes" in self.nodes else None
        return settings is not None and all(name in self.inputs for name in dataset_inputs([settings.language.model]))

    def judge(self, source: str, documents: Sequence["Document"]) -> tuple[float, float]:
        """How many documents the rules let pass, and their characters. Of the classifier, its share is taken."""
        lengths = np.array([len(document["text"]) for document in documents], np.float64)
        if not documents or "quality" not in self.nodes or "attributes" not in self.nodes:
            return float(len(documents)), float(lengths.sum())
        from pipeline.attributes import declared_or_detected
        from pipeline.language import open_detector
        from pipeline.quality.config import rules_for
        from pipeline.quality.measures import Batch, as_arrow, measure
        from pipeline.quality.select import Criteria

        settings: Any = self.nodes["attributes"].config
        texts = [document["text"] for document in documents]
        declared = [document.get("language") for document in documents]
        programming = [document.get("programming_language") for document in documents]
        entry = rules_for(self.nodes["quality"].config, source)  # type: ignore[arg-type]
        if self.detects_languages:
            detector = open_detector(settings.language, self.inputs, self.scratch)
            languages, scores = declared_or_detected(texts, declared, programming, detector)
        else:
            wanted = entry.languages[0] if entry.languages else None
            languages = [known or wanted for known in declared]
            scores = [1.0 for _ in languages]
        measured = measure(Batch(texts, languages, programming), settings.measures)
        columns = {name: as_arrow(column) for name, column in measured.items()}
        table = pa.table({"language": pa.array(languages, pa.string()), "language_score": pa.array(scores), **columns})
        passed = Criteria.of(entry, None).passed(table)
        share = entry.keep_fraction or 1.0
        return float(passed.sum()) * share, float(lengths[passed].sum()) * share


def _packed(documents: Sequence["Document"]) -> int:
    """Bytes they take in a Parquet file."""
    from pipeline.document import documents_table

    buffer = io.BytesIO()
    pq.write_table(documents_table(documents), buffer, compression="zstd")
    return len(buffer.getvalue())
