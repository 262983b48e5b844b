"""One node's part of a job that spans several: what cluster launchers start on every node.

    python -m infra.launch.node --work-dir W --attempt try-1 --module training.pretrain --nodes 2 --node 0
                                --ranks 4 --endpoint HOST:PORT

    launcher (ssh, srun, kubelet, a person)  ->  node  ->  guard  ->  torchrun  ->  ranks

The node and whoever submitted the job talk through the shared work folder, so that nobody needs a connection:

    logs/try-1.node-0.json     written every few seconds while the node runs; holds its exit code once it has ended
    logs/try-1.stop            appears: the node ends its ranks in order (TERM, then KILL after the grace)
    logs/try-1.stacks          appears: its ranks write their stacks to their logs

Nothing is left on the node, however this process ends: the guard sees to that.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from infra.launch.guard import guarded
from infra.launch.processes import dump_stacks_of
from infra.launch.torchrun import GRACE_S, NodeRanks, Rendezvous, environment, torchrun
from infra.store.files import write_json

BEAT_S = 5.0
LOOK_S = 0.5
MARGIN_S = 5


@dataclass(frozen=True)
class AttemptFiles:
    """The files by which an attempt is watched and told what to do."""

    logs: Path
    attempt: str

    def state(self, node: int) -> Path:
        return self.logs / f"{self.attempt}.node-{node}.json"

    @property
    def stop(self) -> Path:
        return self.logs / f"{self.attempt}.stop"

    @property
    def stacks(self) -> Path:
        return self.logs / f"{self.attempt}.stacks"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="infra.launch.node")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--attempt", required=True)
    parser.add_argument("--module", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--node", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument(
        "--rendezvous", default="", help="the rendezvous's name, if one attempt is started several times"
    )
    parser.add_argument("--interface", default="")
    parser.add_argument("--grace", type=float, default=GRACE_S)
    parser.add_argument("--together", action="store_true", help="who ends the job signals all its processes at once")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    files = AttemptFiles(options.work_dir / "logs", options.attempt)
    own_logs = files.logs / f"node-{options.node}"
    own_logs.mkdir(parents=True, exist_ok=True)
    env = dict(pair.split("=", 1) for pair in options.env)
    ranks = NodeRanks(options.module, options.ranks, options.threads, options.work_dir, own_logs, env)
    name = options.rendezvous or options.attempt
    rendezvous = Rendezvous(name, options.nodes, options.node, options.endpoint, options.interface)
    agent_grace = max(1, int(options.grace) - MARGIN_S)
    child = subprocess.Popen(
        guarded(torchrun(ranks, rendezvous, agent_grace), options.grace, options.together),
        env=environment(ranks, rendezvous),
        start_new_session=True,
    )
    return _supervise(child, files, options.node, options.work_dir, options.together)


def _supervise(guard: subprocess.Popen[bytes], files: AttemptFiles, node: int, work_dir: Path, together: bool) -> int:
    """Wait for the end, write the heartbeat, and pass on what the files and the machine's own signals say."""
    forwarded = together  # then the guard has had it already

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal forwarded
        if not forwarded:  # a second TERM would cut the guard's grace short
            forwarded = True
            guard.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    dumped = False
    next_beat = 0.0
    while (code := guard.poll()) is None:
        if time.monotonic() >= next_beat:
            write_json(files.state(node), {"host": socket.gethostname(), "code": None, "beat": time.time()})
            next_beat = time.monotonic() + BEAT_S
        if files.stacks.exists() and not dumped:
            dumped = True
            dump_stacks_of(work_dir)
        if files.stop.exists():
            end(signal.SIGTERM, None)
        time.sleep(LOOK_S)
    write_json(files.state(node), {"host": socket.gethostname(), "code": code, "beat": time.time()})
    return code


if __name__ == "__main__":
    sys.exit(main())
