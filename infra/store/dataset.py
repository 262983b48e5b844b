"""A published dataset, opened for reading."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        """The local path of a file or, without argument, of the dataset; for readers that map memory."""
        if not is_local(self.root):
            raise ValueError(f"{self.root} is not on a local disk")
        return Path(self.root.removeprefix("file://")) / path
