"""Which stage hands its documents to which: a recipe says where it differs from the usual path.

Stages that take documents and hand them on form a chain. ``after: NAME`` in a stage's section puts it behind that stage, and
the stage that came next receives its documents from there. A recipe may leave out any of them. Stages that only read documents
read the end of the chain (``tokenizer``, ``shards``), what ``quality`` will judge (``attributes``, ``classifier``), or what
their own ``after`` says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flows.stages import LAST, STAGE_NAMES
from infra.errors import ConfigError, nearest
from infra.stage import ShardStage, StageNode

FIRST = "ingest"
JUDGED = ("classifier", "attributes")
"""They look at the documents that ``quality`` selects from."""


def arranged(nodes: Sequence[StageNode], after: Mapping[str, str]) -> list[StageNode]:
    """The nodes, each told whose documents it receives, in an order in which they can run. Raises ConfigError."""
    names = [node.name for node in nodes]
    chain = _chain(nodes, after)
    before = dict(zip(chain[1:], chain, strict=False))
    told = []
    for node in nodes:
        stage = node.stage
        if node.name in after and not _receives(node):
            raise ConfigError(f"stage {node.name!r} receives no documents", remedy="Leave out its `after`.")
        if isinstance(stage, ShardStage):
            absent = frozenset(role for role in stage.optional if node.upstream.get(role, role) not in names)
            node = replace(node, documents=_documents(node, chain, before, after), absent=absent)
        told.append(node)
    return _runnable(told)


def hands_on(node: StageNode) -> bool:
    """Whether others can take its documents."""
    return isinstance(node.stage, ShardStage) and node.stage.ledgered and node.kind != LAST


def _chain(nodes: Sequence[StageNode], after: Mapping[str, str]) -> list[str]:
    handing = [node.name for node in nodes if hands_on(node)]
    chain = [name for name in handing if name not in after and name in STAGE_NAMES]
    waiting = [name for name in handing if name in after]
    unplaced = [name for name in handing if name not in after and name not in STAGE_NAMES]
    followers: dict[str, int] = {}
    while waiting:
        name = next((name for name in waiting if after[name] in chain), None)
        if name is None:
            raise _no_place(waiting[0], after[waiting[0]], chain)
        followers[after[name]] = followers.get(after[name], 0) + 1  # several behind one stand as they are written
        chain.insert(chain.index(after[name]) + followers[after[name]], name)
        waiting.remove(name)
    origins = [node.name for node in nodes if node.name in unplaced and not _receives(node)]
    if homeless := [name for name in unplaced if name not in origins]:
        raise ConfigError(
            f"stages.{homeless[0]} does not say whose documents it takes",
            remedy=f"Add `after:` with one of {', '.join(chain)}.",
        )
    return [*origins, *chain]


def _documents(node: StageNode, chain: Sequence[str], before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The stage whose documents it receives; empty if it receives none."""
    if not _receives(node):
        return ""
    if node.name in chain:
        return before.get(node.name, FIRST)
    leader = "quality" if node.name in JUDGED and "quality" in chain else ""
    if node.name in after:
        if leader:
            raise ConfigError(
                f"stages.{node.name}.after: it looks at the documents that quality selects from",
                remedy="Say `after` of quality.",
            )
        if after[node.name] not in chain:
            raise _no_place(node.name, after[node.name], chain)
        return after[node.name]
    if leader:
        return before.get(leader, FIRST)
    if node.name in JUDGED:
        return chain[0] if chain else FIRST
    return chain[-1] if chain else FIRST


def _receives(node: StageNode) -> bool:
    return isinstance(node.stage, ShardStage) and node.stage.documents is not None


def _no_place(name: str, anchor: str, chain: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"stages.{name}.after = {anchor!r}: no stage of this recipe with that name hands on documents",
        remedy=f"{nearest(anchor, chain)}Those that do: {', '.join(chain)}.",
    )


def _runnable(nodes: Sequence[StageNode]) -> list[StageNode]:
    """In the given order, but each after what it reads. What reads what the recipe lacks stays where it is."""
    known = {node.name for node in nodes}
    waiting, placed = list(nodes), []
    done: set[str] = set()
    while waiting:
        ready = next((node for node in waiting if {*node.upstream.values()} & known <= done), None)
        if ready is None:
            circle = ", ".join(node.name for node in waiting)
            raise ConfigError(f"the stages {circle} wait for each other", remedy="Change their `after`.")
        placed.append(ready)
        waiting.remove(ready)
        done.add(ready.name)
    return placed
