"""The crawls of a recipe in a workspace: which ones were started, and on which earlier ones each was built.

    <home>/crawls/<recipe>/known.json              crawls that were there before the first watch: never started by it
    <home>/crawls/<recipe>/<crawl>/claim.json      created exclusively by whoever starts the crawl; holds the key of its run
    <home>/crawls/<recipe>/<crawl>/run.json        the flow run that was started for it, and the how-manieth it is
    <home>/crawls/<recipe>/<crawl>/base.json       the datasets of earlier crawls that it is compared with and appended to
    <home>/crawls/<recipe>/<crawl>/datasets.json   what it published
    <home>/crawls/<recipe>/turn/                   the lease of the run whose turn it is

These files are the memory, not the server's database: a crawl is started once, ever, also if two watches run at the same
time, if one dies half way, or if the server was replaced. Each file has one writer, so none overwrites another's news.

Crawls that published shards form a chain: the first has no base, every other one's base is the crawl before it. Only the
run that holds the turn may write a base, so the chain does not fork.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from infra.errors import ConfigError, InputError
from infra.store.files import child_names, create_exclusive, exists, read_json, write_json
from infra.store.store import Store

First = Literal["newest", "none", "all"]

LAST_STAGE = "shards"
"""A crawl is part of the chain once this stage published."""

KEPT = ("classifier", "tokenizer")
"""Stages whose datasets the whole chain shares: a score and a token id must not change their meaning from crawl to crawl."""


@dataclass(frozen=True)
class Base:
    """What a crawl is built on. Empty for the first of a chain."""

    after: str = ""
    """The crawl before it."""
    previous: tuple[str, ...] = ()
    """The dedup datasets of all crawls before it."""
    append_to: str = ""
    """The shards dataset it is appended to."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """stage -> dataset that is used as it is (``KEPT``)."""


@dataclass(frozen=True)
class Started:
    """The run of a crawl on a server."""

    flow_run: str
    attempt: int


@dataclass(frozen=True)
class Series:
    """The crawls of one recipe in one workspace."""

    store: Store
    recipe: str

    @property
    def root(self) -> str:
        return f"{self.store.address}/crawls/{self.recipe}"

    # ---- what was started -------------------------------------------------------------------------------------------

    def known(self) -> frozenset[str] | None:
        """Crawls that were there before the first watch; None before it."""
        found = self._read("known.json")
        return frozenset(found["crawls"]) if found is not None else None

    def new_crawls(self, listed: Sequence[str], first: First) -> list[str]:
        """The crawls that nobody started yet, oldest first; ``listed`` is newest first. ``first`` says what the first watch
        ever takes for new."""
        known = self.known()
        if known is None and not listed:
            return []  # an empty list says nothing: it must not make every crawl new that it will have tomorrow
        if known is None:
            before = {"newest": listed[1:], "none": listed, "all": ()}[first]
            known = self.begin_watching(before)
        return [crawl for crawl in reversed(listed) if crawl not in known and self.is_new(crawl)]

    def begin_watching(self, known: Sequence[str]) -> frozenset[str]:
        """Write down what was there before, unless another watch did: its word holds."""
        create_exclusive(f"{self.root}/known.json", _json({"crawls": list(known), "time": time.time()}))
        written = self.known()
        assert written is not None
        return written

    def claim(self, crawl: str, by: str) -> str:
        """The key of the crawl's run: made by whoever claims it first, the same for everybody after."""
        record = {"by": by, "time": time.time(), "key": uuid.uuid4().hex}
        create_exclusive(f"{self.root}/{crawl}/claim.json", _json(record))
        return str(read_json(f"{self.root}/{crawl}/claim.json")["key"])

    def claimed_by(self, crawl: str) -> str | None:
        """Who claimed the crawl (``watch``, ``backfill``, ``run``), or None."""
        found = self._read(f"{crawl}/claim.json")
        return str(found["by"]) if found is not None else None

    def started(self, crawl: str) -> Started | None:
        """The crawl's newest run on a server; None if none was started there."""
        found = self._read(f"{crawl}/run.json")
        return Started(found["flow_run"], found["attempt"]) if found is not None else None

    def note_start(self, crawl: str, started: Started) -> None:
        write_json(f"{self.root}/{crawl}/run.json", {**asdict(started), "time": time.time()})

    def is_new(self, crawl: str) -> bool:
        """Whether nobody started the crawl. A claim of a watch that died before its run was created does not count."""
        if self.started(crawl) is not None or self.base(crawl) is not None:
            return False
        return self.claimed_by(crawl) in (None, "watch", "backfill")

    # ---- what was built ---------------------------------------------------------------------------------------------

    def datasets(self, crawl: str) -> dict[str, str]:
        """stage -> fingerprint of what the crawl published."""
        return dict(self._read(f"{crawl}/datasets.json") or {})

    def published(self, crawl: str) -> bool:
        return LAST_STAGE in self.datasets(crawl)

    def base(self, crawl: str) -> Base | None:
        """What the crawl is built on, as recorded; None before its run."""
        found = self._read(f"{crawl}/base.json")
        return Base(**{**found, "previous": tuple(found["previous"])}) if found is not None else None

    def record_base(self, crawl: str) -> Base:
        """The crawl's base, written down: the end of the chain now. Once the crawl is part of the chain it stays.

        To be called by the run that holds the turn.
        """
        base = self.plan_base(crawl)
        if base != self.base(crawl):
            write_json(f"{self.root}/{crawl}/base.json", asdict(base))
        return base

    def plan_base(self, crawl: str) -> Base:
        """The base a run of the crawl would have now."""
        recorded = self.base(crawl)
        if recorded is not None and self.published(crawl):
            return recorded
        chain = self.chain()
        if not chain:
            return Base()
        built = [self.datasets(each) for each in chain]
        return Base(
            after=chain[-1],
            previous=tuple(f"dedup/{each['dedup']}" for each in built if "dedup" in each),
            append_to=f"{LAST_STAGE}/{built[-1][LAST_STAGE]}",
            kept={stage: f"{stage}/{built[0][stage]}" for stage in KEPT if stage in built[0]},
        )

    def chain(self) -> list[str]:
        """The crawls that published shards, each after the one it was appended to."""
        members = [name for name in child_names(self.root) if self.published(name)]
        after = {(base.after if (base := self.base(name)) else ""): name for name in members}
        if len(after) < len(members):
            raise InputError(
                "two crawls were appended to the same one",
                where=self.root,
                remedy="Remove the folder of the one that is not to count, and run it again.",
            )
        chain: list[str] = []
        while (following := after.get(chain[-1] if chain else "")) is not None:
            chain.append(following)
        if len(chain) < len(members):
            lost = sorted(set(members) - set(chain))[0]
            raise InputError(
                f"the crawl that {lost} was appended to is not on record any more",
                where=self.root,
                remedy="Restore its folder, or remove those of the crawls after it and run them again.",
            )
        return chain

    def note_dataset(self, crawl: str, stage: str, fingerprint: str) -> bool:
        """Write down what a crawl published. Refused (False) where later crawls rest on something else already."""
        datasets = self.datasets(crawl)
        if datasets.get(stage) == fingerprint:
            return True
        if LAST_STAGE in datasets and self.chain()[-1] != crawl:
            return False
        write_json(f"{self.root}/{crawl}/datasets.json", {**datasets, stage: fingerprint})
        return True

    def _read(self, path: str) -> Any:
        return read_json(f"{self.root}/{path}") if exists(f"{self.root}/{path}") else None


def select(listed: Sequence[str], wanted: str) -> list[str]:
    """The crawls that ``A..B``, ``A`` or ``A,B..C`` names, oldest first. ``listed`` is newest first; ends are included."""
    order = list(reversed(listed))
    chosen: set[int] = set()
    for part in filter(None, (piece.strip() for piece in wanted.split(","))):
        first, dots, last = (end.strip() for end in part.partition(".."))
        if dots and not (first and last):
            raise ConfigError(f"{part!r} names no range", remedy="Write two crawls, CC-MAIN-2026-05..CC-MAIN-2026-46.")
        ends = sorted((_place(order, first), _place(order, last or first)))
        chosen.update(range(ends[0], ends[1] + 1))
    if not chosen:
        raise ConfigError("no crawl is named", remedy="Write --crawls CC-MAIN-2026-05..CC-MAIN-2026-46, or one name.")
    return [order[place] for place in sorted(chosen)]


def _place(order: Sequence[str], crawl: str) -> int:
    if crawl not in order:
        shown = ", ".join(order[-5:]) or "none"
        raise ConfigError(f"the list of crawls has no {crawl!r}", remedy=f"The newest it has: {shown}.")
    return order.index(crawl)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
