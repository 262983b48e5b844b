"""What a run would do, and why, before it does anything.

A plan walks the stages in order. A stage whose inputs are all published has a fingerprint; if a dataset with it is
published the stage is SKIPped, if work on it was begun it RESUMEs, else it RUNs, and the reason says what changed since
the dataset the recipe's label points at. Below a stage that runs, digests are not known yet: those stages say RUN too,
though they will be skipped after all if the new output turns out to have the same digest (early cut-off).

Planning is pure reading: it takes no lease and writes nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from infra import rebuild
from infra.config import Config, strings_of
from infra.errors import Blocked, ConfigError, HeadwaterError, InputError, describe_os_error
from infra.fingerprint import describe_change, fingerprint_payload, short_fingerprint
from infra.incomplete import incomplete_version
from infra.journal import count_receipts
from infra.stage import ShardStage, StageNode
from infra.stage_source import changed_files, stage_source
from infra.store.address import SCHEME
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.warnings import describe_loss


@dataclass(frozen=True)
class StageSelection:
    """Which stages of a recipe to consider. ``only`` wins over ``start_at`` and ``stop_after``."""

    start_at: str | None = None
    stop_after: str | None = None
    only: tuple[str, ...] = ()
    force: tuple[str, ...] = ()

    def stages(self, names: Sequence[str]) -> set[str]:
        for name in (self.start_at, self.stop_after, *self.only, *self.force):
            if name is not None and name not in names:
                raise ConfigError(f"the recipe has no stage {name!r}", remedy=f"Its stages are: {', '.join(names)}.")
        if self.only:
            return set(self.only)
        first = names.index(self.start_at) if self.start_at else 0
        last = names.index(self.stop_after) if self.stop_after else len(names) - 1
        if first > last:
            raise ConfigError(f"stage {self.start_at!r} comes after {self.stop_after!r}", remedy="Swap them.")
        return set(names[first : last + 1])


class Action(StrEnum):
    RUN = "RUN"
    RESUME = "RESUME"
    SKIP = "SKIP"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True)
class StagePlan:
    """What happens to one stage. ``fingerprint`` is None where it depends on an output not yet known."""

    stage: str
    action: Action
    reason: str
    fingerprint: str | None = None
    selected: bool = True
    dataset: Dataset | None = field(default=None, compare=False)
    cause: HeadwaterError | None = field(default=None, compare=False)
    """What blocks it, where that is more than an input that is not published."""

    def as_dict(self) -> dict[str, Any]:
        # dataclasses.asdict would copy the dataset's manifest, which may list many thousand files, to leave it out here.
        shown = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("dataset", "cause")}
        return {**shown, "digest": self.dataset.digest if self.dataset else None}


def refuse_blocked(plans: Sequence[StagePlan]) -> None:
    """Raises Blocked if a selected stage cannot run: before the first one does, not after hours."""
    blocked = [entry for entry in plans if entry.selected and entry.action is Action.BLOCKED]
    if not blocked:
        return
    first = blocked[0]
    cause = first.cause or Blocked(first.reason.rstrip("."))
    blocking = type(cause)(f"stage {first.stage!r} cannot run: {cause.error}", where=cause.where, remedy=cause.remedy)
    blocking.stage = first.stage
    raise blocking


def check_graph(nodes: Sequence[StageNode]) -> None:
    """Every input of a stage must come from a stage before it."""
    seen: set[str] = set()
    for node in nodes:
        for role, upstream in node.upstream.items():
            if upstream not in seen:
                texts = strings_of(node.config, node.name)
                chosen = [at for at, text in texts if text == upstream or text.startswith(f"{SCHEME}{upstream}/")]
                otherwise = f", or choose otherwise in {chosen[0]}" if chosen else ""
                raise ConfigError(
                    f"stage {node.name!r} reads {upstream!r} (as {role}), which the recipe does not run before it",
                    remedy=f"Add a section {upstream!r} to the recipe{otherwise}.",
                )
        seen.add(node.name)


def plan(nodes: Sequence[StageNode], store: Store, selection: StageSelection, label: str) -> list[StagePlan]:
    """The plan of a run, one entry a stage, in order."""
    check_graph(nodes)
    selected = selection.stages([node.name for node in nodes])
    plans: dict[str, StagePlan] = {}
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        known = {role: plans[name].dataset or by_name[name].config for role, name in node.upstream.items()}
        plans[node.name] = _plan_stage(
            node, store, plans, known, node.name in selected, node.name in selection.force, label
        )
    return list(plans.values())


def _plan_stage(
    node: StageNode,
    store: Store,
    done: Mapping[str, StagePlan],
    known: Mapping[str, Dataset | Config],
    selected: bool,
    force: bool,
    label: str,
) -> StagePlan:
    """What happens to one stage; ``known`` of each of its inputs: the dataset, or how it will be made."""
    if node.use:
        return _plan_used(node, store, selected)
    if node.missing is not None:
        return StagePlan(node.name, Action.BLOCKED, str(node.missing), selected=selected, cause=node.missing)
    pending = sorted({name for name in node.upstream.values() if done[name].action != Action.SKIP})
    unknown = sorted({name for name in node.upstream.values() if done[name].dataset is None})
    if not selected:
        return _plan_unselected(node, store, done, unknown, label)
    if pending and not any(done[name].action in (Action.RUN, Action.RESUME) for name in pending):
        unpublished = Blocked(
            f"its input {', '.join(pending)} is not published with these settings",
            remedy=f"Run from there: --start-at {pending[0]}.",
        )
        return StagePlan(node.name, Action.BLOCKED, str(unpublished), cause=unpublished)
    try:
        node.stage.check(node.config)
        if isinstance(node.stage, ShardStage):
            node.stage.check_earlier(node.config, store.dataset_url(node.name, "new"), known)
        if pending or unknown:
            node.stage.external(node.config)  # what it reads from outside the store is there, or it is known now
            return StagePlan(node.name, Action.RUN, f"its input {', '.join(pending or unknown)} will be rebuilt")
        payload = fingerprint_payload(node.stage, node.config, input_digests(node, done))
    except (ConfigError, InputError) as error:
        return StagePlan(node.name, Action.BLOCKED, str(error), cause=error)
    except OSError as error:
        cause = describe_os_error(error)
        return StagePlan(node.name, Action.BLOCKED, str(cause), cause=cause)
    fingerprint = short_fingerprint(payload)
    dataset = store.find(node.name, fingerprint)
    if dataset is not None and not force:
        gone = store.missing_outputs(dataset)
        if not gone:
            return StagePlan(node.name, Action.SKIP, why_skipped(node, dataset), fingerprint, dataset=dataset)
        return StagePlan(node.name, Action.RUN, f"published files are missing or damaged: {gone[0]}", fingerprint)
    if force:
        return _plan_forced(node, store, fingerprint)
    receipts = count_receipts(f"{store.work_url(node.name, fingerprint)}/journal")
    checkpoints = _checkpoints(store, node.name, fingerprint)
    partial = incomplete_version(store, node.name, fingerprint, label)
    if partial is not None:
        loss = describe_loss(partial.manifest.units.failed, partial.manifest.units.total)
        reason = f"published incomplete as {partial.manifest.fingerprint}: {loss}; those are tried again"
        return StagePlan(node.name, Action.RESUME if receipts else Action.RUN, reason, fingerprint)
    if receipts or checkpoints:
        kept = f"{receipts} units done" if receipts else f"checkpoint {checkpoints[-1]}"
        return StagePlan(node.name, Action.RESUME, f"an earlier run was interrupted: {kept}", fingerprint)
    previous = store.get_ref(node.name, label)
    reason = describe_change(previous.manifest.payload, payload) if previous else "not built yet"
    return StagePlan(node.name, Action.RUN, reason, fingerprint)


def _plan_forced(node: StageNode, store: Store, fingerprint: str) -> StagePlan:
    done = rebuild.units_done(store, node.stage, node.config, fingerprint)
    if done:
        reason = f"forced; an earlier attempt was interrupted: {done} units done"
        return StagePlan(node.name, Action.RESUME, reason, fingerprint)
    return StagePlan(node.name, Action.RUN, "forced", fingerprint)


def _plan_used(node: StageNode, store: Store, selected: bool) -> StagePlan:
    name, mark, version = re.split("([/@])", node.use)
    dataset = store.get_ref(name, version) if mark == "@" else store.find(name, version)
    if dataset is None:
        known = f"; labels of {name}: {', '.join(store.labels(name)) or 'none'}" if mark == "@" else ""
        reason = f"it is to use {node.use}, which is not in this workspace{known}"
        return StagePlan(node.name, Action.BLOCKED, reason, None if known else version, selected)
    return StagePlan(
        node.name, Action.SKIP, f"uses {node.use} as it is", dataset.manifest.fingerprint, selected, dataset
    )


def _plan_unselected(
    node: StageNode, store: Store, done: Mapping[str, StagePlan], unknown: Iterable[str], label: str
) -> StagePlan:
    """A stage outside the selection is used if it is published as the recipe describes it, and never run."""
    if list(unknown):
        return StagePlan(node.name, Action.BLOCKED, "not selected, and its inputs are not published", selected=False)
    fingerprint = short_fingerprint(fingerprint_payload(node.stage, node.config, input_digests(node, done)))
    dataset, reason = store.find(node.name, fingerprint), "not selected; published"
    if dataset is None:
        dataset, reason = incomplete_version(store, node.name, fingerprint, label), "not selected; published incomplete"
    if dataset is None:
        reason = "not selected, and not published with this configuration"
        return StagePlan(node.name, Action.BLOCKED, reason, fingerprint, selected=False)
    return StagePlan(node.name, Action.SKIP, reason, dataset.manifest.fingerprint, selected=False, dataset=dataset)


def _checkpoints(store: Store, name: str, fingerprint: str) -> list[str]:
    folder = store.work_root(name, fingerprint) / "checkpoints"
    return sorted(path.name for path in folder.glob("step-*") if path.suffix != ".tmp") if folder.is_dir() else []


def input_digests(node: StageNode, done: Mapping[str, StagePlan]) -> dict[str, str]:
    """role -> output digest, from datasets already known. Raises Blocked where one is not."""
    digests = {}
    for role, name in node.upstream.items():
        dataset = done[name].dataset
        if dataset is None:
            raise Blocked(
                f"stage {node.name!r} needs dataset {name!r}, which is not published",
                remedy=f"Run it first: --start-at {name}.",
            )
        digests[role] = dataset.digest
    return digests


def why_skipped(node: StageNode, dataset: Dataset) -> str:
    """Why a published dataset is taken as it is, and whether its source was edited."""
    reason = "published, and neither its configuration, code version nor inputs changed"
    return "; ".join(filter(None, [reason, drift(node, dataset)]))


def drift(node: StageNode, dataset: Dataset) -> str:
    """Same fingerprint, other source: a sentence that names the files; empty if there is none."""
    before, now = dataset.manifest.source, stage_source(node.stage, node.config)
    return "" if before == now else f"its source was edited since (drift): {changed_files(before, now)}"
