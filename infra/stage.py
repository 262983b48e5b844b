"""The contract: a stage turns datasets into a dataset.

A stage is a value, declared once at module level in the room it belongs to, and run by ``infra.runner.run_stage``.
There are two kinds:

* ``ShardStage``: the work is a list of independent *units* handled by an executor, in one or more *steps*; a later
  step may plan its units from the receipts of an earlier one (that is how work regroups: a step writes partitioned
  files, the next step's units read them). ``finalize`` reduces in one process at the end.
* ``JobStage``: the work is a process group (training, alignment) started by a launcher.

Both publish through the same manifest. A unit's id comes from the identity of its content (archive path + size, or the
digest of an input shard), never from rank or position; its outputs depend only on the unit, the configuration and the
inputs, never on the worker, the order or the number of workers.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infra.config import Config, Json, canonical_json
from infra.errors import HeadwaterError
from infra.job import JobSpec
from infra.store.dataset import Dataset
from infra.store.files import OutputFile, publish_file


@dataclass(frozen=True)
class Unit:
    """One independent piece of work.

    ``payload`` holds plain JSON values: all that ``process`` needs beside configuration and inputs.
    ``weight`` (bytes, or any unit the stage likes) feeds the estimate of the remaining time.
    ``documents`` is the number of incoming documents where it is known beforehand: if the unit fails for good they are
    counted as failed, so that the stage's counts still balance. ``files`` (archives, or paths of the input dataset) and
    ``bytes`` say what it reads, as a person would name it: what is missing if it fails for good.
    """

    id: str
    payload: Mapping[str, Json] = field(default_factory=dict)
    weight: int = 1
    documents: int | None = None
    files: tuple[str, ...] = ()
    bytes: int | None = None


def unit_id(*identity: Json) -> str:
    """A unit id (16 hex digits) from what identifies its content."""
    return hashlib.blake2b(canonical_json(list(identity)).encode(), digest_size=8).hexdigest()


def unit_of_files(
    identity: str, payload: Mapping[str, Json], files: Sequence[OutputFile], *, counted: bool = True
) -> Unit:
    """A unit that reads files of an input dataset; ``counted``: its records are in the stage's counts."""
    size = sum(file.bytes for file in files)
    rows = sum(file.rows or 0 for file in files) if counted else None
    return Unit(identity, payload, size, rows, tuple(file.path for file in files), size)


@dataclass(frozen=True)
class Counts:
    """What became of the records a unit received: ``incoming == kept + sum(dropped) + failed``, always."""

    incoming: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts.total((self, other))

    @classmethod
    def total(cls, every: Iterable["Counts"]) -> "Counts":
        """The sum of many."""
        incoming = kept = failed = 0
        dropped: Counter[str] = Counter()
        for counts in every:
            incoming += counts.incoming
            kept += counts.kept
            failed += counts.failed
            for rule, number in counts.dropped.items():
                dropped[rule] += number
        return cls(incoming, kept, dict(sorted(dropped.items())), failed)

    @property
    def balanced(self) -> bool:
        return self.incoming == self.kept + sum(self.dropped.values()) + self.failed


def checked_counts(where: str, counts: Any) -> Counts:
    """What a ``process`` returned. Raises TypeError or ValueError for what are no counts, or none that balance."""
    if not isinstance(counts, Counts):
        raise TypeError(f"{where}: process returned {counts!r}, and Counts are wanted")
    if not counts.balanced:
        raise ValueError(
            f"received {counts.incoming} records but accounts for {counts.kept} kept, "
            f"{sum(counts.dropped.values())} dropped and {counts.failed} failed"
        )
    return counts


@dataclass(frozen=True)
class Receipt:
    """Proof that a unit is done: its outputs with their digests, and what became of its records."""

    unit: str
    step: str
    outputs: tuple[OutputFile, ...]
    counts: Counts = field(default_factory=Counts)
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    attempt: int = 1


@dataclass
class OutputContext:
    """Configuration, inputs, where the dataset is made, and the only way to write a file of it."""

    config: Any
    inputs: Mapping[str, Dataset]
    dataset_root: str
    work_root: str
    scratch: Path
    outputs: list[OutputFile] = field(default_factory=list, kw_only=True)

    @contextlib.contextmanager
    def output(self, path: str, *, rows: int | None = None, digested: bool = True) -> Iterator[Path]:
        """Write ``path`` (below the dataset: ``data/…``, ``ledger/…``) through a temporary file.

        Yields a local path to write to. On a clean exit the file is hashed, fsynced and put in its place by one
        rename (or one PUT); after an exception nothing appears. ``rows`` is read from the footer for ``.parquet``.
        """
        with publish_file(self.dataset_root, path, self.scratch, rows=rows, digested=digested) as pending:
            yield pending.path
        self.outputs.append(pending.output)


@dataclass
class UnitContext(OutputContext):
    """What ``process`` sees beside its unit."""

    step: str
    metrics: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def intermediate(self, path: str) -> Iterator[Path]:
        """Write a file for a later step of the same stage: kept under ``work/``, deleted once the stage is published."""
        with publish_file(self.work_root, f"steps/{self.step}/{path}", self.scratch) as pending:
            yield pending.path
        self.outputs.append(pending.output)


@dataclass
class StageContext(OutputContext):
    """What ``units`` and ``finalize`` see: everything but a unit. Runs in the driver, in one process.

    ``warnings``: a sentence each of what a user of the dataset must know. They stand in its manifest and are told
    whenever it is published or used.
    """

    receipts: Mapping[str, Sequence[Receipt]]
    stats: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    counts: Counts | None = None

    def step_files(self, step: str) -> list[str]:
        """Absolute addresses of the intermediate files an earlier step wrote, sorted."""
        return sorted(
            f"{self.work_root}/{output.path}"
            for receipt in self.receipts.get(step, ())
            for output in receipt.outputs
            if output.path.startswith("steps/")
        )


@dataclass(frozen=True)
class Step:
    """One map over units. ``process`` must be a module-level function (workers import it by name)."""

    name: str
    units: Callable[[StageContext], Iterable[Unit]]
    process: Callable[[Unit, UnitContext], Counts]


@dataclass(frozen=True)
class ShardStage:
    """A stage whose work is units.

    ``inputs(config)`` maps roles to upstream stage names. ``reference`` is the stage's own address,
    ``"module:ATTRIBUTE"``, by which worker processes import it. ``external(config)`` is the identity of what is read from
    outside the store (a listing of archives with sizes, the digest of a model file): it enters the fingerprint, so that
    an archive added to a folder is noticed. ``consumes`` names the role whose kept documents this
    stage receives: the runner refuses to publish unless every one of them is accounted for. ``reads`` names it of a stage that
    only looks at documents. Which stage plays that role is the recipe's to say; ``inputs`` need not name it. A recipe may lack
    the stages of ``optional`` roles. ``ledgered`` says that
    every dropped or failed record has a ledger row, which the runner checks too. ``earlier(config)`` names earlier datasets
    (``name/fingerprint`` in the same store, or an address) that this one is built on: the manifest names them too.
    ``check(config)`` raises ConfigError or InputError for what can be known to be wrong before any input exists: files
    outside the store that are missing or lack a column. A plan asks it, so that nobody waits hours for the answer.
    ``check_earlier(config, root, inputs)`` is the same for datasets that this one is built on: ``root`` is a place in the store
    beside which they lie, and for each role ``inputs`` has the dataset, or the configuration of the stage that is yet to make it.
    """

    name: str
    code_version: int
    config: type[Config]
    reference: str
    steps: tuple[Step, ...]
    inputs: Callable[[Any], Mapping[str, str]] = lambda config: {}
    finalize: Callable[[StageContext], None] = lambda context: None
    external: Callable[[Any], Json] = lambda config: None
    check: Callable[[Any], None] = lambda config: None
    check_earlier: Callable[[Any, str, Mapping[str, Dataset | Config]], None] = lambda config, root, inputs: None
    consumes: str | None = None
    reads: str | None = None
    optional: tuple[str, ...] = ()
    ledgered: bool = False
    earlier: Callable[[Any], Sequence[str]] = lambda config: ()
    description: str = ""
    declared: str = ""
    """The name it was declared under, where a recipe has it under another one (``named``)."""

    @property
    def kind(self) -> str:
        return self.declared or self.name

    @property
    def documents(self) -> str | None:
        """The role under which it receives documents."""
        return self.consumes or self.reads


@dataclass(frozen=True)
class JobStage:
    """A stage whose work is one process group.

    ``job(config)`` says what to launch. The launched module reads its request with ``infra.job.load_request`` and
    ends with ``infra.job.finish``; success is that verified result, never exit code 0. ``check`` is as in ``ShardStage``.
    """

    name: str
    code_version: int
    config: type[Config]
    inputs: Callable[[Any], Mapping[str, str]]
    job: Callable[[Any], JobSpec]
    external: Callable[[Any], Json] = lambda config: None
    check: Callable[[Any], None] = lambda config: None
    description: str = ""
    declared: str = ""

    @property
    def kind(self) -> str:
        return self.declared or self.name


Stage = ShardStage | JobStage


def named(stage: Stage, name: str) -> Stage:
    """The same stage under another name: that of a recipe's section, and of its dataset. What it is stays its ``kind``."""
    return stage if stage.name == name else replace(stage, name=name, declared=stage.kind)


@dataclass(frozen=True)
class StageNode:
    """A stage with the configuration and the place a recipe gives it.

    ``use`` names a published dataset (``name/fingerprint``, ``name@label``) that stands in its place: the stage does not run.
    ``documents`` names the stage whose documents it receives, if not the one that its declaration names; ``inputs`` does so for
    its other roles; ``absent`` are roles whose stages the recipe does without. ``missing`` says why this machine cannot run it:
    then stage and configuration are stand-ins, and neither its fields nor its inputs are known.
    """

    stage: Stage
    config: Config
    use: str = ""
    documents: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    missing: HeadwaterError | None = None

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def kind(self) -> str:
        """What stage it is, whatever it is called here."""
        return self.stage.kind

    @property
    def upstream(self) -> Mapping[str, str]:
        """role -> name of the stage whose dataset it reads."""
        found = {**self.stage.inputs(self.config), **self.inputs}
        if isinstance(self.stage, ShardStage) and self.stage.documents and self.documents:
            found[self.stage.documents] = self.documents
        return {role: name for role, name in found.items() if role not in self.absent}
