"""What a model wrote runs behind bars, and passes only by running to its end."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.sandbox import Limits, run_program, run_programs

HELLO = "assert sorted([3, 1, 2]) == [1, 2, 3]"


def test_a_correct_program_passes_behind_both_barriers() -> None:
    outcome = run_program("import math, collections, typing, hashlib, re\n" + HELLO)
    assert (outcome.passed, outcome.reason) == (True, "")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended early"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = ' ' * (1 << 30)", "MemoryError"),
        ("def f(): return f()\nf()", "RecursionError"),
    ],
)
def test_what_does_not_reach_its_end_has_not_passed(program: str, reason: str) -> None:
    outcome = run_program(program, Limits(seconds=3, megabytes=256))
    assert not outcome.passed
    assert reason in outcome.reason


@pytest.mark.parametrize("program", ["while True: pass", "import time\ntime.sleep(60)"])
def test_time_is_limited(program: str) -> None:
    started = time.monotonic()
    assert not run_program(program, Limits(seconds=1)).passed
    assert time.monotonic() - started < 8


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        outcome = run_program(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
        assert not outcome.passed
        assert "PermissionError" in outcome.reason
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true') == 0 or 1 / 0",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.kill(PARENT, 15)",
        "import os\nos.execv('/bin/true', ['true'])",
    ],
)
def test_there_are_no_other_processes(program: str) -> None:
    assert not run_program(program.replace("PARENT", str(os.getpid()))).passed


def test_files_of_others_are_out_of_reach(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    if not run_program("pass").files_restricted:
        pytest.skip("this kernel has no Landlock")
    assert "PermissionError" in run_program(f"open({str(secret)!r}).read()").reason
    assert "PermissionError" in run_program(f"open({str(secret)!r}, 'w')").reason
    assert not run_program(f"import os\nos.remove({str(secret)!r})").passed
    assert "PermissionError" in run_program("open('/etc/passwd').read()").reason
    assert secret.read_text() == "mine"


def test_its_own_folder_is_writable_small_and_gone_afterwards() -> None:
    program = "open('a.txt', 'w').write('x')\nassert open('a.txt').read() == 'x'\nprint(open('a.txt'))"
    assert run_program(program).passed
    assert not run_program("open('big', 'wb').write(b'x' * (8 << 20))").passed


@pytest.mark.parametrize("end", ["", "\nwhile True: pass"])
def test_files_are_counted(end: str) -> None:
    program = "for i in range(60): open(f'{i}', 'w').close()" + end
    started = time.monotonic()
    assert run_program(program, Limits(seconds=20, files=40)).reason == "too many files"
    assert time.monotonic() - started < 15
    assert run_program("for i in range(30): open(f'{i}', 'w').close()", Limits(files=40)).passed


def test_many_programs_keep_their_order() -> None:
    outcomes = run_programs([HELLO, "assert False", HELLO], workers=3)
    assert [outcome.passed for outcome in outcomes] == [True, False, True]


def test_nothing_is_left_running_when_the_parent_is_killed() -> None:
    script = (
        "from training.sandbox import run_program, Limits\n"
        "print('ready', flush=True)\n"
        "run_program('import time\\ntime.sleep(60)', Limits(seconds=60))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "ready"
    children: list[str] = []
    path = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 10
    while not children and time.monotonic() < deadline:
        children = path.read_text().split()
        time.sleep(0.05)
    assert children
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while Path(f"/proc/{children[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{children[0]}").exists()
