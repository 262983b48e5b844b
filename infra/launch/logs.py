"""Why an attempt ended, from what its agents and ranks wrote below ``logs/``.

try-1.log                                     the agents (torchrun), one after the other
try-1…_<random>/attempt_0/<rank>/stderr.log   a rank of a job on one machine
node-0/try-1…/attempt_0/<rank>/stderr.log     a rank of node 0
"""

import re
from pathlib import Path

TAIL_BYTES = 6000
SEARCHED_BYTES = 1 << 20
"""Agents of other nodes complain at length after the one that knows the cause."""
VERDICT = re.compile(r"Root Cause.*?rank\s*:\s*(\d+)\s*\(local_rank:\s*(\d+)\).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
"""The agent's last word: which rank failed first, and how."""
TRACE = re.compile(r"^(\[rank\d+\]: ?)?[\w.]*(Error|Exception|Interrupt)\b", re.MULTILINE)
"""A line that names an exception."""


def read_logs(logs: Path, attempt: str) -> tuple[str, str]:
    """The agent's verdict (``rank 1 exit code 1``) and the end of the log that says why."""
    agent = tail(logs / f"{attempt}.log")
    verdict = VERDICT.search(tail(logs / f"{attempt}.log", SEARCHED_BYTES))
    if verdict is None:
        return "", agent
    rank, local, code = verdict.groups()
    reason = f"rank {rank} " + (f"was killed by signal {code[1:]}" if code.startswith("-") else f"exit code {code}")
    places = (f"{attempt}[._]*/attempt_*/{local}/stderr.log", f"node-*/{attempt}[._]*/attempt_*/{local}/stderr.log")
    tails = [tail(path) for place in places for path in sorted(logs.glob(place))]
    telling = [text for text in tails if TRACE.search(text)] or [text for text in tails if text]
    return reason, telling[-1] if telling else agent


def tail(path: Path, most: int = TAIL_BYTES) -> str:
    """The last bytes of a log as text; nothing of one that is not there."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - most))
        return stream.read().decode(errors="replace")


def next_attempt(logs: Path) -> str:
    """``try-1``, ``try-2`` …: the name of an attempt and of its log."""
    logs.mkdir(parents=True, exist_ok=True)
    return f"try-{1 + sum(1 for _ in logs.glob('try-*.log'))}"
