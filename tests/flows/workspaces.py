"""A small workspace made by the stages themselves, for whatever shows documents: crawled pages, notes, and hostile ones."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.stage import ShardStage
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import InputRecord, Manifest, output_digest, write_manifest
from infra.store.store import Store
from pipeline import attributes, dedup, ingest, quality, redact, shards, tokenizer
from pipeline.language import LanguageConfig
from pipeline.quality.config import OwnRule, QualityConfig, SourceRules
from pipeline.redact.stage import RedactConfig
from pipeline.shards.stage import ShardsConfig
from tests.pipeline.corpus import prose
from tests.pipeline.sources.archives import gzip_members, html_page, warc_record
from tests.support import profiles, run_shard_stage, source_config

PAGES = 6
NOTES = 60
HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(2)> and some more words to keep it a document of its own",
    "bidi": "user\u202egnp.exe\u2066 and \u200bmore words than a few \u2069 so that it is kept as any other note here",
    "nul": "before\x00after and then the words that follow a character of no width at all, as in many old files",
    "pattern": "it costs $5.00 (100% of [a-z]+\\d* or '1'='1'; DROP TABLE documents;--) and nobody knows why it does",
    "long": "one line without an end " * 220_000,
    "../../etc/passwd": "a note whose name leads out of its folder, and which is a note like all the others beside it",
}
NEAR = " ".join(f"word{number}" for number in range(120))


def make_workspace(folder: Path, whole: bool = True) -> Store:
    """ingest → attributes → quality → dedup → redact → tokenizer → shards, and a record of a pretraining on these.

    Of ingest alone unless ``whole``.
    """
    store = Store.at(folder / "workspace")
    made: dict[str, Dataset] = {}

    def run(stage: ShardStage, config: Any, *inputs: str, **roles: str) -> None:
        given = {role: made[name] for role, name in ({name: name for name in inputs} | roles).items()}
        built = run_shard_stage(stage, config, given, folder / "new")
        made[stage.name] = publish(store, built)

    run(ingest.STAGE, ingest.IngestConfig(sources=_sources(folder)))
    if not whole:
        return store
    run(attributes.STAGE, attributes.AttributesConfig(language=LanguageConfig(model="")), "ingest")
    run(quality.STAGE, selection(), "ingest", "attributes")
    run(dedup.STAGE, dedup.DedupConfig(), "quality")
    run(redact.STAGE, RedactConfig(profiles=PROFILES), decontaminate="dedup")
    run(tokenizer.STAGE, tokenizer.TokenizerConfig(vocab_size=400), "redact")
    few = ShardsConfig(seq_len=64, validation_documents=2)
    run(shards.STAGE, few, "redact", "tokenizer")
    publish(store, trained(folder / "new", made["shards"]))
    return store


PROFILES = profiles(web="web", notes="none")


RULES = (OwnRule(name="some_words", expression="words >= 12"), OwnRule(name="an_end", expression="words < 100000"))


def selection(*rules: OwnRule) -> QualityConfig:
    """The workspace's selection, with further rules."""
    entries = (SourceRules(source="*", rules=RULES),)
    return QualityConfig(profiles=PROFILES, sources=entries, rules=rules)


def publish(store: Store, built: Dataset) -> Dataset:
    """Move a dataset into the store, labelled."""
    fingerprint = built.manifest.fingerprint
    place = store.dataset_root(built.name, fingerprint)
    place.parent.mkdir(parents=True, exist_ok=True)
    Path(built.root).rename(place)
    for label in ("latest", "small"):
        store.set_ref(built.name, label, fingerprint)
    return Dataset.open(store.dataset_url(built.name, fingerprint))


def _sources(folder: Path) -> tuple[Any, ...]:
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        warc_record(
            f"http://pages.example/{n}",
            html_page(f"Page {n}", f"<script>alert({n})</script>Write to anna{n}@mill-house.org. " + prose(rng, 90)),
        )
        for n in range(PAGES)
    ]
    records.append(warc_record("http://pages.example/gone", b"", status="404 Not Found"))
    (folder / "pages.warc.gz").write_bytes(b"".join(gzip_members(records)))
    notes: list[Mapping[str, Any]] = [{"id": f"n{n}", "text": prose(rng, 4 + n)} for n in range(NOTES)]
    notes += [{"id": name, "text": text} for name, text in HOSTILE.items()]
    notes += [{"id": "twin-a", "text": NEAR}, {"id": "twin-b", "text": NEAR.replace("word60 ", "another ")}]
    lines = (json.dumps({**note, "url": f"http://notes.example/{note['id']}"}) for note in notes)
    (folder / "notes.jsonl").write_text("\n".join(lines) + "\n")
    return (
        source_config(name="web", kind="warc", address=str(folder / "pages.warc.gz")),
        source_config(name="notes", kind="jsonl", address=str(folder / "notes.jsonl"), id_column="id", language="en"),
    )


def trained(root: Path, trained_on: Dataset, digit: str = "1") -> Dataset:
    """What a pretraining of four steps publishes of its course; each took four rows."""
    data = root / "data"
    data.mkdir(parents=True)
    first = list(range(0, 16, 4))
    steps = {"step": [1, 2, 3, 4], "first": first, "last": [at + 3 for at in first], "applied": [True] * 4}
    pq.write_table(pa.table(steps), data / "steps.parquet")
    lines = [{"step": step, "loss": 5.0 / step, "lr": 0.001, "tokens": 64} for step in range(1, 5)]
    lines[2]["loss"] = float("nan")
    (data / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outputs = [describe_file(root, f"data/{name}") for name in ("metrics.jsonl", "steps.parquet")]
    record = InputRecord(
        role="shards", name=trained_on.name, fingerprint=trained_on.manifest.fingerprint, digest=trained_on.digest
    )
    manifest = Manifest(
        name="pretrain", fingerprint=digit * 12, payload={"stage": "pretrain"}, config={"seed": 0}, inputs=[record],
        outputs=outputs, output_digest=output_digest(outputs), stats={"ranks": 1, "steps": 4},
    )  # fmt: skip
    write_manifest(str(root), manifest)
    return Dataset.open(str(root))
