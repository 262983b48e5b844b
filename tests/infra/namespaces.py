"""Two machines on one: network namespaces joined by a cable, each with a host name of its own. Needs root and ``ip``."""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NUMBERS = itertools.count()


@dataclass(frozen=True)
class Machine:
    """One namespace: its host name and address, and the program that runs a shell line there (as ssh does)."""

    name: str
    address: str
    enter: Path

    def command(self, line: str) -> list[str]:
        return [str(self.enter), self.name, line]


def available() -> bool:
    tools = all(shutil.which(program) for program in ("ip", "nsenter", "unshare"))
    if os.geteuid() != 0 or not tools:
        return False
    probe = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, check=False)
    return probe.returncode == 0


@contextlib.contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    number = f"{os.getpid() % 100000}{next(NUMBERS)}"
    names = [f"hw{number}{side}" for side in "ab"]
    net = f"10.{77 + os.getpid() % 100}.{next(NUMBERS) % 250}"
    enter = folder / "enter"
    enter.parent.mkdir(parents=True, exist_ok=True)
    enter.write_text(
        "#!/bin/bash\n# enter HOST LINE: run a shell line in a namespace, under its host name\n"
        'exec nsenter --net="/var/run/netns/$1" unshare --uts bash -c \'hostname "$0"; eval "exec $1"\' "$1" "$2"\n'
    )
    enter.chmod(0o755)
    machines = [Machine(name, f"{net}.{last}", enter) for last, name in enumerate(names, start=1)]
    with contextlib.ExitStack() as stack:
        for machine in machines:
            _ip("netns", "add", machine.name)
            stack.callback(_ip, "netns", "delete", machine.name)
        _ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for machine in machines:
            _ip("link", "set", machine.name, "netns", machine.name)
            inside = ("-n", machine.name)
            _ip(*inside, "address", "add", f"{machine.address}/24", "dev", machine.name)
            _ip(*inside, "link", "set", machine.name, "up")
            _ip(*inside, "link", "set", "lo", "up")
            # Nothing answers there, but programs learn their own address from the way to the world.
            _ip(*inside, "route", "add", "default", "dev", machine.name)
        yield machines[0], machines[1]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
