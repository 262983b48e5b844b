"""A published dataset, opened for reading."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.store.cache import dataset_key, staged
from infra.store.files import OutputFile, is_local
from infra.store.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Dataset:
    """An immutable dataset: its address and its manifest. ``root`` is any fsspec address."""

    root: str
    manifest: Manifest

    @classmethod
    def open(cls, root: str) -> "Dataset":
        """Open a dataset by its folder. Raises InputError if it has no valid manifest."""
        return cls(root, read_manifest(root))

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def kind(self) -> str:
        """The stage that made it, whatever the recipe called it."""
        return str(self.manifest.payload.get("stage", self.name))

    @property
    def digest(self) -> str:
        return self.manifest.output_digest

    def files(self, prefix: str = "data/", suffix: str = "") -> Sequence[OutputFile]:
        """The published files below ``prefix``, in path order."""
        return [
            output
            for output in self.manifest.outputs
            if output.path.startswith(prefix) and output.path.endswith(suffix)
        ]

    def url(self, path: str) -> str:
        """The address of one of its files (``data/…``)."""
        return f"{self.root}/{path}"

    def local(self, path: str = "") -> Path:
        """The local path of a file, a folder or, without argument, of the dataset; for readers that map memory.

        Of a dataset in an object store, what is asked for is copied to this machine first (``infra.store.cache``).
        """
        if is_local(self.root):
            return Path(self.root.removeprefix("file://")) / path
        outputs = self.manifest.outputs
        wanted = [output for output in outputs if not path or output.path == path or output.path.startswith(f"{path}/")]
        key = dataset_key(self.name, self.manifest.fingerprint, outputs)
        return staged(key, self.root, wanted) / path
