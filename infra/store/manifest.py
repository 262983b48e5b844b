"""The manifest: written last, atomically, and the only truth about a dataset's completion."""

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

from infra.config import canonical_json
from infra.errors import InputError
from infra.store.files import OutputFile, read_bytes, write_bytes

FORMAT_MAJOR = 1
FORMAT = f"{FORMAT_MAJOR}.0"
MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class InputRecord(_Record):
    """An input as it was used: enough to find it again and to notice that it changed."""

    role: str
    name: str
    fingerprint: str
    digest: str


class CountsRecord(_Record):
    """What became of the records: ``in == kept + dropped + failed``."""

    incoming: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}
    failed: int = 0


class FailedUnit(_Record):
    """A unit that failed for good, and what is missing because of it."""

    unit: str
    step: str
    error: str
    attempts: int
    files: list[str] = []
    """The archives, or files of the input dataset, that it reads."""
    bytes: int | None = None
    records: int | None = None
    """None where nobody can know before it is read."""


class UnitsRecord(_Record):
    total: int = 0
    ok: int = 0
    failed: list[FailedUnit] = []
    tolerated: float | None = None
    """``execution.max_failed_fraction`` of the run that published it without the failed ones."""


class Provenance(_Record):
    """Where, when and with what it was made. Never part of an identity."""

    git_commit: str = ""
    git_dirty: bool = False
    argv: list[str] = []
    host: str = ""
    python: str = ""
    packages: dict[str, str] = {}
    run: str = ""
    recipe: str = ""
    started: float = 0.0
    ended: float = 0.0


class Manifest(_Record):
    """Everything known about a published dataset."""

    format: str = FORMAT
    name: str
    fingerprint: str
    """First 12 hex digits of the SHA-256 of ``payload``."""
    payload: dict[str, Any]
    """What the fingerprint was computed from, kept so that a later run can say what changed."""
    source: dict[str, str] = {}
    """File -> digest of what the stage is made of (``infra.stage_source``): same fingerprint with other source is drift."""
    config: dict[str, Any]
    inputs: list[InputRecord]
    outputs: list[OutputFile]
    output_digest: str
    counts: CountsRecord = CountsRecord()
    units: UnitsRecord = UnitsRecord()
    stats: dict[str, Any] = {}
    warnings: list[str] = []
    """What a user of the dataset must know, a sentence each."""
    provenance: Provenance = Provenance()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def complete(self) -> bool:
        """Whether every unit is in it."""
        return not self.units.failed

    @property
    def rows(self) -> int:
        """Rows of all data files."""
        return sum(output.rows or 0 for output in self.outputs if output.path.startswith("data/"))

    @property
    def bytes(self) -> int:
        return sum(output.bytes for output in self.outputs)


def output_digest(outputs: list[OutputFile]) -> str:
    """SHA-256 over the sorted (path, size, digest) of every digested file."""
    rows = sorted((output.path, output.bytes, output.digest) for output in outputs if output.digested)
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()


def read_manifest(root: str) -> Manifest:
    """The manifest of the dataset at ``root``. Raises InputError if there is none or it cannot be trusted."""
    where = f"{root}/{MANIFEST}"
    try:
        raw = read_bytes(where)
    except FileNotFoundError:
        raise InputError("there is no published dataset", where=root, remedy="Run its stage first.") from None
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"the manifest is damaged: {'.'.join(map(str, first['loc']))} {first['msg']}",
            where=where,
            remedy="Delete the dataset's folder and run its stage again.",
        ) from error
    major = manifest.format.split(".", 1)[0]
    if major != str(FORMAT_MAJOR):
        raise InputError(
            f"the manifest has format {manifest.format}; this version reads {FORMAT_MAJOR}.x",
            where=where,
            remedy="Use the version of headwater that wrote it, or rebuild the dataset.",
        )
    return manifest


def write_manifest(root: str, manifest: Manifest) -> None:
    """Publish: from this moment the dataset exists."""
    write_bytes(f"{root}/{MANIFEST}", (manifest.model_dump_json(indent=1) + "\n").encode())
