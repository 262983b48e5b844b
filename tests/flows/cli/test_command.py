"""The command as a program: what it prints when something is wrong, and that it names no option it does not have."""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from flows.cli import main
from infra.errors import HeadwaterError
from tests.support import REPOSITORY

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHERS = {"--signal"}
"""Options of other programs that our sentences name (sbatch)."""


def commands() -> dict[str, set[str]]:
    """The options of every command."""
    found = {}
    for name, _ in main.COMMANDS:
        command = typer.main.get_command(main.build_app([name])).commands[name]  # type: ignore[attr-defined]
        found[name] = {each for parameter in command.params for each in (*parameter.opts, *parameter.secondary_opts)}
    return found


@pytest.mark.parametrize("words", [["--help"], ["status"]])
def test_help_and_status_import_nothing_that_takes_long(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import sys; from flows.cli.main import _run; assert _run(sys.argv[1:]) == 0; "
        "print(*{'numba', 'pyarrow', 'torch', 'prefect', 'pipeline.ingest', 'flows.recipe'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=REPOSITORY, env={**os.environ, "HEADWATER_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.split() == []


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    arguments = shlex.split(line)
    monkeypatch.setattr(sys, "argv", ["headwater", *arguments])
    code = main._run(arguments)
    written = capsys.readouterr()
    return code, written.out, written.err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("nonsense", 2, "no such command 'nonsense'"),
        ("plan demo --start-att ingest", 2, "no such option: --start-att"),
        ("plan demo --stop-after", 2, "requires an argument"),
        ("trace --step 0 --url x", 2, "invalid value for '--step'"),
        ("why", 2, "missing argument"),
        ("plan demo --set dedup.bandz=3", 1, "unknown key stages.dedup.bandz"),
        ("plan demo --only dedupe", 1, "no stage 'dedupe'"),
        ("plan nowhere.yaml", 1, "there is no recipe 'nowhere.yaml'"),
        ("scale --parameters 1e9 --tokens-per-parameter inf", 2, "invalid value for '--tokens-per-parameter'"),
        ("generate hello --temperature inf", 1, "input should be a finite number"),
        ("plan demo --only dedup --no-forecast", 1, "stage 'dedup' cannot run: its input quality is not published"),
    ],
)
@pytest.mark.parametrize("form", ["json", "words"])
def test_every_error_is_one_sentence_or_one_object(tmp_path, monkeypatch, capsys, line, code, said, form) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    first, _, rest = line.partition(" ")
    ended, _, err = call(monkeypatch, capsys, f"{first} --json {rest}" if form == "json" else line)
    assert ended == code
    assert "Traceback" not in err
    if form == "json":
        error = json.loads(err)
        assert set(error) >= {"error", "where", "remedy"}
        assert said in error["error"]
    else:
        assert said in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "nothing is lost"),
        (EOFError(), 130, "nothing is lost"),
        (OSError(28, "No space left on device", "/x/y"), 1, "the disk is full"),
        (HeadwaterError("wrong", where="there", remedy="Mend it."), 1, "wrong"),
        (ZeroDivisionError("a defect"), 1, "a defect"),
    ],
)
@pytest.mark.parametrize("form", ["json", "words"])
def test_whatever_a_command_ends_by_is_told(monkeypatch, capsys, error, code, said, form) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("flows.cli.status.open_store", fail)
    ended, _, err = call(monkeypatch, capsys, "status --json" if form == "json" else "status")
    assert ended == code
    if form == "json":
        found = json.loads(err)
        assert said in f"{found['error']} {found['remedy']}"
    else:
        assert said in err.splitlines()[-1]


def test_ctrl_c_is_told_where_python_wraps_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it does, before 3.12, with what comes while a class is made."""

    def call(arguments: list[str]) -> int:
        raise RuntimeError("Error calling __set_name__ on 'member_descriptor'") from KeyboardInterrupt()

    monkeypatch.setattr(main, "_call", call)
    assert main._run(["plan"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_ctrl_c_is_told_from_the_first_moment(tmp_path: Path) -> None:
    """Also while modules are imported, and by Typer, which would say "Aborted!" and leave with 1."""
    code = (
        "import sys; from flows.cli import main as program; call = program._call;"
        "program._call = lambda arguments: (print('on', flush=True), call(arguments))[1];"
        "sys.argv = ['headwater', 'plan']; program.main()"
    )
    for wait in (0.0, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HEADWATER_HOME": str(tmp_path), "HOME": str(tmp_path)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert err.strip() == "interrupted; nothing is lost. The same command goes on from here."


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m flows.cli.main plan demo --no-forecast --workspace {tmp_path} | head -1",
        shell=True, cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("Plan")
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_closed_standard_output_is_no_defect(tmp_path: Path) -> None:
    line = f"{sys.executable} -m flows.cli.main status --workspace {tmp_path} >&-"
    done = subprocess.run(line, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_and_the_short_form_of_help(monkeypatch, capsys) -> None:
    assert call(monkeypatch, capsys, "--version")[:2] == (0, f"headwater {version('headwater')}\n")
    for line in ("-h", "run -h", "plan -h"):
        code, out, _ = call(monkeypatch, capsys, line)
        assert code == 0
        assert "Usage: headwater" in out


@pytest.mark.parametrize(
    ("line", "offered"), [("headwater tak", {"takedown"}), ("headwater run --st", {"--start-at", "--stop-after"})]
)
def test_the_shell_completes_commands_and_their_options(monkeypatch, capsys, line, offered) -> None:
    monkeypatch.setenv("_HEADWATER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        call(monkeypatch, capsys, "")
    assert set(capsys.readouterr().out.split()) == offered


@pytest.mark.parametrize(("package", "extra"), [("torch", "train"), ("prefect", "prefect"), ("starlette", "serve")])
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, capsys, package, extra) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{package}.nn'", name=f"{package}.nn")

    monkeypatch.setattr("flows.cli.status.open_store", fail)
    code, _, err = call(monkeypatch, capsys, "status")
    assert code == 1
    assert err == f"error: this needs {package}, which is not installed here. pip install 'headwater[{extra}]'\n"


def sentences() -> list[tuple[str, str]]:
    """(place, text) of every sentence in an error of ours."""
    found = []
    for folder in ("headwater", "flows", "alignment", "training", "pipeline", "infra"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(getattr(node, "func", None), "id", "")
                if isinstance(node, ast.Call) and name.endswith(("Error", "Blocked", "Lost")):
                    words = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                    found += [(f"{path.name}:{node.lineno}", word) for word in words if isinstance(word, str)]
    return found


def test_no_error_names_an_option_that_does_not_exist() -> None:
    known = set.union(*commands().values(), OTHERS)
    assert len(sentences()) > 500
    wrong = [(place, option) for place, text in sentences() for option in OPTION.findall(text) if option not in known]
    assert not wrong


def test_no_page_shows_a_command_or_an_option_that_does_not_exist() -> None:
    known = commands()
    wrong = []
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            for shown in re.findall(r"(?:^|`|\$ |&& )headwater ([a-z]+)([^`|#]*)", line):
                name, rest = shown
                if name not in known:
                    wrong.append((page.name, name))
                elif name != "bench":
                    wrong += [(page.name, name, option) for option in OPTION.findall(rest) if option not in known[name]]
    assert not wrong
