"""Where words come from: spans of the training tokens, with their documents' titles and the steps that trained on them."""

import time
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from flows.provenance.trace import Steps
from infra.errors import InputError, NotFound
from infra.store.cache import local_file
from infra.store.dataset import Dataset
from infra.store.store import Store
from pipeline.shards.find import Index, Match

DEFAULT = "index"
REMEDY = "Add `index: {}` to the recipe's stages, and run it."
MOST_TITLED = 2_000_000
"""Documents among which titles are looked up: their ids are read from end to end."""
KNOWN_SECONDS = 30
"""How long it may take until a model that was trained meanwhile is seen."""


def index_of(store: Store, address: str = DEFAULT, label: str = "latest") -> Dataset:
    """The index that an address names, or that of the shards it names. Raises InputError."""
    try:
        named = store.resolve(address, label)
    except NotFound:
        if address != DEFAULT:
            raise
        raise NotFound("there is no index here yet", where=store.address, remedy=REMEDY) from None
    if named.kind == "index":
        return named
    for dataset in store.datasets():
        inputs = {record.role: record.digest for record in dataset.manifest.inputs}
        if dataset.kind == "index" and inputs["shards"] == named.digest:
            return dataset
    raise InputError(f"{named.name}/{named.manifest.fingerprint} has no index", where=named.root, remedy=REMEDY)


class Finder:
    """An index with what the workspace knows of its documents. Threads may share it."""

    def __init__(self, store: Store, dataset: Dataset) -> None:
        self.dataset = dataset
        self._store = store
        self._index = Index(dataset)
        self._trained: list[tuple[str, Steps]] = []
        self._looked = float("-inf")

    def find(self, text: str, limit: int = 10) -> dict[str, Any]:
        """What ``headwater find --json`` prints. Raises InputError."""
        began = time.perf_counter()
        found = self._index.find(text, limit)
        titles = self._titles({match.id for span in found.spans for match in span.matches})
        spans = [
            {
                **asdict(span),
                "matches": [self._match(match, text[span.start : span.end], titles) for match in span.matches],
            }
            for span in found.spans
        ]
        milliseconds = round((time.perf_counter() - began) * 1000, 2)
        index = f"{self.dataset.name}/{self.dataset.manifest.fingerprint}"
        return {"tokens": found.tokens, "milliseconds": milliseconds, "index": index, "spans": spans}

    def _match(self, match: Match, text: str, titles: dict[str, str | None]) -> dict[str, Any]:
        described = {key: value for key, value in asdict(match).items() if key != "rows"}
        return {
            **described,
            "title": titles.get(match.id),
            "text": text,
            "row": match.rows[0],
            "steps": [
                {"model": model, "step": step}
                for model, steps in self._models()
                for step in steps.of_rows(match.rows, self._index.phases)
            ],
        }

    def _models(self) -> list[tuple[str, Steps]]:
        """What was trained on the shards, whatever the recipe called it."""
        if time.monotonic() - self._looked > KNOWN_SECONDS:
            self._trained = [
                (f"{dataset.name}/{dataset.manifest.fingerprint}", Steps(dataset))
                for dataset in self._store.datasets()
                if dataset.kind == "pretrain"
                and self._index.shards in {f"{record.name}/{record.fingerprint}" for record in dataset.manifest.inputs}
            ]
            self._looked = time.monotonic()
        return self._trained

    def _titles(self, ids: set[str]) -> dict[str, str | None]:
        """Titles, from the documents that the shards were made of, if these are still there."""
        name, _, fingerprint = self._index.shards.partition("/")
        shards = self._store.find(name, fingerprint)
        record = next((each for each in shards.manifest.inputs if each.role == "redact"), None) if shards else None
        documents = self._store.find(record.name, record.fingerprint) if record else None
        if documents is None or not ids or documents.manifest.counts.kept > MOST_TITLED:
            return {}
        files = [str(local_file(documents.url(file.path))) for file in documents.files("data/", ".parquet")]
        wanted = pc.field("id").isin(pa.array([bytes.fromhex(each) for each in ids], pa.binary(16)))
        table = pads.dataset(files, format="parquet").to_table(columns=["id", "title"], filter=wanted)
        return {row["id"].hex(): row["title"] for row in table.to_pylist()}
