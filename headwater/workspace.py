"""A workspace from Python: its datasets by name, as Arrow, as shards, as rows for torch; and running a recipe in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.context import open_store as open_workspace
from infra.errors import InputError, missing_package
from infra.store.dataset import Dataset
from infra.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.shards.reader import ShardSet
    from training.torch_rows import TorchRows


def open_store(address: str | Path | None = None) -> "Workspace":
    """A workspace by its folder or ``s3://bucket/prefix``; without one, ``$HEADWATER_HOME`` or ``./workspace``."""
    return Workspace(open_workspace(None if address is None else str(address)))


def run(
    recipe: str | Path,
    *,
    workspace: str | Path | None = None,
    overrides: Sequence[str] = (),
    start_at: str | None = None,
    stop_after: str | None = None,
    only: Sequence[str] = (),
    force: Sequence[str] = (),
    quiet: bool = False,
) -> "Workspace":
    """Run a recipe (a bundled one's name, or a file) without Prefect, as ``headwater run --no-prefect`` does.

    ``overrides`` are as after ``--set``: ``["dedup.bands=20"]``. What is published already is skipped. Worker processes
    import the script that calls this, which therefore does it below ``if __name__ == "__main__":``.
    """
    from flows.recipe import load_recipe
    from flows.start import run_in_workspace
    from infra.planning import StageSelection

    opened = open_store(workspace)
    selection = StageSelection(start_at, stop_after, tuple(only), tuple(force))
    loaded = load_recipe(str(recipe), overrides)
    run_in_workspace(loaded, selection, opened.store, use_prefect=False, quiet=quiet)
    return Workspace(opened.store, loaded.label)


@dataclass(frozen=True)
class Workspace(Mapping[str, "Published"]):
    """The published datasets by name: ``["shards"]``, ``["shards@demo"]`` (a label), ``["shards/3f2a"]`` (a fingerprint)."""

    store: Store
    label: str = "latest"
    """Under which label a plain name is looked up; the newest dataset of the name where there is none."""

    def __getitem__(self, name: str) -> "Published":
        if name not in self:
            raise KeyError(
                f"there is no dataset {name!r} in {self.store.address}; there are {', '.join(self) or 'none'}"
            )
        return Published(self.store.resolve(name, self.label))

    def __contains__(self, name: object) -> bool:
        try:
            self.store.resolve(str(name), self.label)
        except InputError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.store.names() if any(True for _ in self.store.datasets(name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Published:
    """A published dataset. It is immutable: what is read today is read tomorrow."""

    dataset: Dataset

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def digest(self) -> str:
        """SHA-256 over all its files: equal digests, equal bytes."""
        return self.dataset.digest

    @property
    def counts(self) -> dict[str, Any]:
        """What became of the records: ``incoming``, ``kept``, ``dropped`` by rule, ``failed``."""
        return self.dataset.manifest.counts.model_dump()

    @property
    def stats(self) -> dict[str, Any]:
        """What the stage measured."""
        return self.dataset.manifest.stats

    def paths(self, suffix: str = "", prefix: str = "data/") -> list[Path]:
        """Its files on this machine, in order; those of an object store are copied here first."""
        return [self.dataset.local(file.path) for file in self.dataset.files(prefix, suffix)]

    def __len__(self) -> int:
        return self.dataset.manifest.rows

    def batches(self, columns: Sequence[str] | None = None) -> "pa.RecordBatchReader":
        """Its rows, streamed: documents, attributes, conversations, rows of shards."""
        return self._stream("data/", columns)

    def ledger(self) -> "pa.RecordBatchReader":
        """Each document that did not go on, with stage, verdict, rule, score, threshold and survivor."""
        return self._stream("ledger/", None)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.batches().__arrow_c_stream__(requested_schema)

    def _stream(self, prefix: str, columns: Sequence[str] | None) -> "pa.RecordBatchReader":
        import pyarrow.dataset as arrow_dataset

        for suffix, form in ((".parquet", "parquet"), (".arrow", "ipc")):
            if paths := self.paths(suffix, prefix):
                found = arrow_dataset.dataset([str(path) for path in paths], format=form)
                return found.scanner(columns=None if columns is None else list(columns)).to_reader()
        raise InputError(
            f"dataset {self.name!r} has no table under {prefix}",
            where=self.dataset.root,
            remedy=f"Its files: {', '.join(file.path for file in self.dataset.files('')[:8])}.",
        )

    def shards(self, split: str = "train") -> "ShardSet":
        """Token shards: rows by number, and the documents behind each (``.rows([0, 1])``, ``.documents(0)``)."""
        from pipeline.shards.reader import ShardSet

        return ShardSet.open(self.dataset.local("data"), split)

    def torch(self, split: str = "train") -> "TorchRows":
        """Token shards as a ``torch.utils.data.Dataset``: ``input_ids`` and ``labels`` as Hugging Face models take them."""
        try:
            from training.torch_rows import TorchRows
        except ModuleNotFoundError as error:
            raise missing_package(error) or error from None

        return TorchRows(self.shards(split))
