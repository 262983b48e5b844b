"""The dataset store: where datasets, work in progress and runs live, and how they are found again.

<home>/datasets/<name>/<fingerprint>/   manifest.json  data/  ledger/     published, immutable
<home>/datasets/<name>/refs/<label>     a text file holding a fingerprint, replaced atomically
<home>/work/<name>/<fingerprint>/       plan/  journal/  lease.json  steps/  logs/  checkpoints/     while running
<home>/runs/<run id>/                   plan.json  events.jsonl           one invocation; readable with no server

A workspace is a folder, or a prefix of an S3 bucket. Of the latter each machine has a local folder besides (``home``),
for what is its own: scratch files, the checkpoints and logs of a training job, a Prefect server.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError, InputError, NotFound
from infra.store.cache import workspace_folder
from infra.store.dataset import Dataset
from infra.store.files import (
    OBJECT_STORES,
    child_names,
    exists,
    file_sizes,
    filesystem,
    is_local,
    read_bytes,
    remove_file,
    write_bytes,
)
from infra.store.manifest import MANIFEST

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BROKEN_SCHEME = re.compile(r"(s3a?|gs|gcs|az|abfs|hdfs|https?|file):/?(?!/)")
REFS = "refs"


@dataclass(frozen=True)
class Store:
    """A workspace. ``address`` is where everything is shared; ``home`` is this machine's folder: the same if local."""

    address: str
    home: Path

    @classmethod
    def at(cls, address: str | Path) -> "Store":
        """Open (not create) the workspace at an address."""
        text = str(address)
        if _BROKEN_SCHEME.match(text):
            raise ConfigError(
                "this is neither a folder nor an address: after the scheme come two slashes",
                where=text,
                remedy=f"Write {text.partition(':')[0]}://bucket/prefix; for a folder of this name, ./{text}.",
            )
        if is_local(text):
            home = Path(text.removeprefix("file://")).expanduser().absolute()
            if home.exists() and not home.is_dir():
                raise ConfigError("the workspace is a file, not a folder", where=str(home), remedy="Name a folder.")
            return cls(str(home), home)
        if not text.startswith(OBJECT_STORES):
            raise ConfigError(
                "a workspace must be a local or mounted folder, or a prefix of an S3 bucket",
                where=text,
                remedy="Give a folder or s3://bucket/prefix to --workspace; sources may be at any address.",
            )
        text = text.rstrip("/")
        filesystem(text)  # says so if the driver is not installed
        return cls(text, workspace_folder(text))

    @property
    def is_local(self) -> bool:
        return is_local(self.address)

    def dataset_url(self, name: str, fingerprint: str) -> str:
        return f"{self.address}/datasets/{name}/{fingerprint}"

    def work_url(self, name: str, fingerprint: str) -> str:
        return f"{self.address}/work/{name}/{fingerprint}"

    def run_url(self, run: str) -> str:
        return f"{self.address}/runs/{run}"

    def dataset_root(self, name: str, fingerprint: str) -> Path:
        """Where this machine writes the files of a dataset: its place, or before they are uploaded to it."""
        return self.home / "datasets" / name / fingerprint

    def work_root(self, name: str, fingerprint: str) -> Path:
        """This machine's work on a dataset: scratch, and the logs and checkpoints of a job."""
        return self.home / "work" / name / fingerprint

    def find(self, name: str, fingerprint: str) -> Dataset | None:
        """The published dataset, or None. A damaged manifest is an error, not an absence."""
        root = self.dataset_url(name, fingerprint)
        return Dataset.open(root) if exists(f"{root}/{MANIFEST}") else None

    def missing_outputs(self, dataset: Dataset) -> list[str]:
        """Published files that are gone or have another size."""
        if is_local(dataset.root):
            root = Path(dataset.root.removeprefix("file://"))
            return [output.path for output in dataset.manifest.outputs if _size(root / output.path) != output.bytes]
        sizes = file_sizes(dataset.root)
        return [output.path for output in dataset.manifest.outputs if sizes.get(output.path) != output.bytes]

    def set_ref(self, name: str, label: str, fingerprint: str) -> None:
        """Point a human label (a recipe, a crawl, ``latest``) at a dataset."""
        if not LABEL.fullmatch(label):
            raise ConfigError(
                f"{label!r} cannot be a label", remedy="Use letters, digits, dots, dashes and underscores."
            )
        if not exists(f"{self.dataset_url(name, fingerprint)}/{MANIFEST}"):
            raise InputError(
                f"label {label!r} cannot point at {name}/{fingerprint}, which is not published",
                where=self.address,
                remedy="Run its stage first.",
            )
        write_bytes(f"{self.address}/datasets/{name}/{REFS}/{label}", f"{fingerprint}\n".encode())

    def drop_ref(self, name: str, label: str) -> None:
        """Forget a label of a dataset; the dataset stays."""
        remove_file(f"{self.address}/datasets/{name}/{REFS}/{label}")

    def read_ref(self, name: str, label: str) -> str | None:
        """The fingerprint that a label points at."""
        try:
            return read_bytes(f"{self.address}/datasets/{name}/{REFS}/{label}").decode().strip()
        except FileNotFoundError:
            return None

    def get_ref(self, name: str, label: str) -> Dataset | None:
        fingerprint = self.read_ref(name, label)
        return None if fingerprint is None else self.find(name, fingerprint)

    def labels(self, name: str) -> dict[str, str]:
        """label -> fingerprint."""
        folder = f"{self.address}/datasets/{name}/{REFS}"
        found = [label for label in child_names(folder) if LABEL.fullmatch(label)]
        return {label: read_bytes(f"{folder}/{label}").decode().strip() for label in found}

    def names(self) -> list[str]:
        """The names under which anything was ever published or labelled."""
        return child_names(f"{self.address}/datasets")

    def fingerprints(self, name: str) -> list[str]:
        """Of every dataset folder of a name, published or not."""
        return [entry for entry in child_names(f"{self.address}/datasets/{name}") if entry != REFS]

    def datasets(self, name: str | None = None) -> Iterator[Dataset]:
        """Every published dataset, by name and fingerprint."""
        for each in [name] if name else self.names():
            for fingerprint in self.fingerprints(each):
                dataset = self.find(each, fingerprint)
                if dataset is not None:
                    yield dataset

    def works(self) -> Iterator[tuple[str, str]]:
        """(name, fingerprint) of all work, running or left behind."""
        for name in child_names(f"{self.address}/work"):
            for fingerprint in child_names(f"{self.address}/work/{name}"):
                yield name, fingerprint

    def resolve(self, text: str, label: str = "latest") -> Dataset:
        """A dataset by ``name``, ``name@label``, ``name/fingerprint`` (a prefix will do) or folder. Raises InputError."""
        if exists(f"{text}/{MANIFEST}"):
            return Dataset.open(text)
        if "/" in text:
            name, _, prefix = text.partition("/")
            found = [d for d in self.datasets(name) if d.manifest.fingerprint.startswith(prefix)]
            if len(found) == 1:
                return found[0]
        name, _, wanted = text.partition("@")
        dataset = self.get_ref(name, wanted or label)
        if dataset is None and not wanted:  # under no label yet where no run was completed: the newest there is
            published = sorted(self.datasets(name), key=lambda dataset: dataset.manifest.provenance.ended)
            dataset = self.get_ref(name, "latest") or (published[-1] if published else None)
        if dataset is None:
            known = [each for each in self.names() if any(True for _ in self.datasets(each))]
            raise NotFound(
                f"there is no dataset {text!r}",
                where=self.address,
                remedy=f"Known datasets: {', '.join(known)}." if known else "Nothing is published here yet.",
            )
        return dataset


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
