"""Two runs of one dataset: one works, the other waits, and a dead or stale holder is replaced."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.errors import HeadwaterError, LeaseLost
from infra.store.lease import Lease
from tests.infra.leases import second_is_refused_or_waits


def test_a_second_run_is_refused_or_waits(tmp_path: Path) -> None:
    second_is_refused_or_waits(tmp_path)


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from infra.store.lease import Lease;"
        "Lease(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lease.json").exists()
    lease = Lease(tmp_path)
    began = time.monotonic()
    lease.acquire(wait=False)
    assert time.monotonic() - began < 1
    lease.release()


def test_a_foreign_lease_becomes_stale_by_its_heartbeat(tmp_path: Path) -> None:
    holder = {"owner": "x", "host": "elsewhere", "pid": 1, "process_started": 0.0, "heartbeat": time.time()}
    (tmp_path / "lease.json").write_text(json.dumps(holder))
    with pytest.raises(HeadwaterError, match="elsewhere"):
        Lease(tmp_path).acquire(wait=False)
    (tmp_path / "lease.json").write_text(json.dumps({**holder, "heartbeat": time.time() - 91}))
    lease = Lease(tmp_path)
    lease.acquire(wait=False)
    lease.release()


def test_a_container_that_bears_the_hosts_name_keeps_its_lease(tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode != 0:
        pytest.skip("process namespaces cannot be made here")
    code = (
        "import sys, time; from infra.store.lease import Lease; Lease(sys.argv[1]).acquire(); print(1, flush=True); "
        "time.sleep(60)"
    )
    command = [*inside, sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"1\n"
            assert json.loads((tmp_path / "lease.json").read_text())["host"].startswith(socket.gethostname())
            with pytest.raises(HeadwaterError, match="another run"):
                Lease(tmp_path).acquire(wait=False)
        finally:
            holder.kill()


def test_losing_the_lease_is_noticed_before_publishing(tmp_path: Path) -> None:
    lease = Lease(tmp_path, heartbeat_s=0.05)
    lease.acquire()
    content = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**content, "owner": "somebody else"}))
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    assert json.loads((tmp_path / "lease.json").read_text())["owner"] == "somebody else"


def test_only_one_of_many_takes_a_stale_lease(tmp_path: Path) -> None:
    stale = {"owner": "x", "host": "elsewhere", "pid": 1, "process_started": 0.0, "heartbeat": 0.0}
    (tmp_path / "lease.json").write_text(json.dumps(stale))
    leases = [Lease(tmp_path) for _ in range(8)]
    winners: list[Lease] = []

    def take(lease: Lease) -> None:
        try:
            lease.acquire(wait=False)
        except HeadwaterError:
            return
        winners.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    winners[0].release()
