"""The fates of conversations, replies and pairs: rows of the pipeline's ledger beside a stage's data.

A conversation's ``url`` is its own id, a reply's is ``id/turn`` as pairs are named; ``id`` is a digest of it. Lines that
could not be read have neither, and are named by their place. Other than a document stage, whose kept documents are in
its data, a stage that trains has nothing to show for what it learnt from: such a ledger names what was kept as well.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from alignment.conversations import Untaught
from alignment.job import ModelJob
from alignment.records import Refusal
from alignment.turns import Conversation
from pipeline.document import RowWriter, document_id
from pipeline.ledger import Verdict, fate, ledger_writer


class FateLedger:
    """Counts fates by rule on every rank; the first writes them down."""

    def __init__(self, stage: str, writer: RowWriter | None) -> None:
        self._stage, self._writer = stage, writer
        self.kept = 0
        self.lost: Counter[str] = Counter()

    def line(self, refusal: Refusal) -> None:
        """A record that could not be read or used."""
        detail = f"{refusal.place}: {refusal.detail}" if refusal.detail else refusal.place
        # Rows of a table have no byte of their own.
        place = str(refusal.line.offset) if refusal.line.offset or refusal.line.data else f"row {refusal.line.number}"
        self._add("failed", refusal.reason, None, document_id(refusal.file, place, "", ""), detail)

    def conversation(self, conversation: Conversation, replies: int, untaught: dict[int, Untaught], held: bool) -> None:
        """What became of a conversation, and of each of its replies that teaches nothing."""
        taught = replies - len(untaught)
        for turn, reason in sorted(untaught.items()):
            detail = f"with what it answers it takes {reason.tokens} tokens" if reason.tokens else None
            self.record("dropped", reason.rule, f"{conversation.id}/{turn}", detail)
        if taught:
            detail = f"{taught} of {replies} replies"
            self.record("kept", "held_out" if held else "taught", conversation.id, detail)
        else:
            self.record("dropped", "teaches_nothing", conversation.id, f"none of its {replies} replies can be taught")

    def record(self, verdict: Verdict, rule: str, name: str, detail: str | None = None) -> None:
        """The fate of something that has a name."""
        self._add(verdict, rule, name, document_id("", name, "", ""), detail)

    def _add(self, verdict: Verdict, rule: str, name: str | None, key: bytes, detail: str | None) -> None:
        if verdict == "kept":
            self.kept += 1
        else:
            self.lost[rule] += 1
        if self._writer is not None:
            self._writer.write(fate(self._stage, verdict, rule, key, name, None, detail=detail))


@contextlib.contextmanager
def fate_ledger(job: ModelJob[Any], name: str) -> Iterator[FateLedger]:
    """The ledger ``ledger/<name>.parquet`` of the job's dataset, to be published with it."""
    if not job.ranks.first:
        yield FateLedger(job.request.stage, None)
        return
    path = job.request.dataset_root / ledger_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ledger_writer(path) as writer:
        yield FateLedger(job.request.stage, writer)


def ledger_path(name: str) -> str:
    """Below the dataset. It never enters the digest: a model is the same whatever was not used for it."""
    return f"ledger/{name}.parquet"
