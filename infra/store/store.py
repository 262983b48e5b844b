"""The dataset store: where datasets, work in progress and runs live, and how they are found again.

<home>/datasets/<name>/<fingerprint>/   manifest.json  data/  ledger/     published, immutable
<home>/datasets/<name>/refs/<label>     a text file holding a fingerprint, replaced atomically
<home>/work/<name>/<fingerprint>/       plan/  journal/  lease.json  steps/  logs/  checkpoints/     while running
<home>/runs/<run id>/                   plan.json  events.jsonl           one invocation; readable with no server
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError, InputError
from infra.store.dataset import Dataset
from infra.store.files import is_local, read_bytes, write_bytes
from infra.store.manifest import MANIFEST

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Store:
    """A workspace on a local or shared POSIX file system."""

    home: Path

    @classmethod
    def at(cls, address: str | Path) -> "Store":
        """Open (not create) the workspace at an address."""
        text = str(address)
        if not is_local(text):
            raise ConfigError(
                "a workspace must be on a local or mounted file system",
                where=text,
                remedy="Give a folder to --workspace; sources may be at any address.",
            )
        return cls(Path(text.removeprefix("file://")).expanduser().absolute())

    def dataset_root(self, name: str, fingerprint: str) -> Path:
        return self.home / "datasets" / name / fingerprint

    def work_root(self, name: str, fingerprint: str) -> Path:
        return self.home / "work" / name / fingerprint

    def run_root(self, run: str) -> Path:
        return self.home / "runs" / run

    def find(self, name: str, fingerprint: str) -> Dataset | None:
        """The published dataset, or None. A damaged manifest is an error, not an absence."""
        root = self.dataset_root(name, fingerprint)
        if not (root / MANIFEST).exists():
            return None
        return Dataset.open(str(root))

    def missing_outputs(self, dataset: Dataset) -> list[str]:
        """Published files that are gone or have another size."""
        missing = []
        for output in dataset.manifest.outputs:
            try:
                if dataset.local(output.path).stat().st_size != output.bytes:
                    missing.append(output.path)
            except FileNotFoundError:
                missing.append(output.path)
        return missing

    def set_ref(self, name: str, label: str, fingerprint: str) -> None:
        """Point a human label (a recipe, a crawl, ``latest``) at a dataset."""
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                f"{label!r} cannot be a label", remedy="Use letters, digits, dots, dashes and underscores."
            )
        write_bytes(self.home / "datasets" / name / "refs" / label, f"{fingerprint}\n".encode())

    def get_ref(self, name: str, label: str) -> Dataset | None:
        path = self.home / "datasets" / name / "refs" / label
        if not path.exists():
            return None
        return self.find(name, read_bytes(path).decode().strip())

    def labels(self, name: str) -> dict[str, str]:
        """label -> fingerprint."""
        folder = self.home / "datasets" / name / "refs"
        if not folder.is_dir():
            return {}
        return {path.name: path.read_text().strip() for path in sorted(folder.iterdir()) if _LABEL.fullmatch(path.name)}

    def datasets(self, name: str | None = None) -> Iterator[Dataset]:
        """Every published dataset, by name and fingerprint."""
        pattern = f"{name or '*'}/*/{MANIFEST}"
        for manifest in sorted((self.home / "datasets").glob(pattern)):
            yield Dataset.open(str(manifest.parent))

    def resolve(self, text: str, label: str = "latest") -> Dataset:
        """A dataset by ``name``, ``name@label``, ``name/fingerprint`` (a prefix will do) or folder. Raises InputError."""
        if Path(text, MANIFEST).exists():
            return Dataset.open(text)
        if "/" in text:
            name, _, prefix = text.partition("/")
            found = [d for d in self.datasets(name) if d.manifest.fingerprint.startswith(prefix)]
            if len(found) == 1:
                return found[0]
        name, _, wanted = text.partition("@")
        dataset = self.get_ref(name, wanted or label) or (self.get_ref(name, "latest") if not wanted else None)
        if dataset is None:
            known = sorted({path.parent.parent.name for path in (self.home / "datasets").glob(f"*/*/{MANIFEST}")})
            raise InputError(
                f"there is no dataset {text!r}",
                where=str(self.home),
                remedy=f"Known datasets: {', '.join(known)}." if known else "Nothing is published here yet.",
            )
        return dataset
