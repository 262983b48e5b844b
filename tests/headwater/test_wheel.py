"""The wheel, installed by itself in an environment of its own, outside a checkout, without torch, DeepSpeed and Prefect.

What the wheel depends on is taken from the environment of the tests (nothing is fetched), less what only extras bring.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow
EXTRAS = ("torch", "deepspeed", "safetensors", "prefect", "fastapi", "starlette", "uvicorn", "sqlalchemy", "aiosqlite")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, so that nothing of this checkout is written to."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and not name.startswith("tests/") and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
    ]
    subprocess.run([sys.executable, *command, str(source)], check=True, capture_output=True, text=True)
    (found,) = out.glob("headwater-*.whl")
    return found


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; the folder holds nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    site = next((folder / "venv/lib").glob("python*/site-packages"))
    target = ["--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *target, str(wheel)], check=True, capture_output=True)
    others = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    (site / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS!r}))\n")
    return folder


def call(home: Path, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HEADWATER_HOME")}
    return subprocess.run(
        [str(home / "venv/bin/python"), *words], cwd=home, env=environment, capture_output=True, text=True, timeout=300
    )


def test_it_holds_recipes_templates_and_the_licence(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {"flows/recipes/demo.yaml", "flows/templates/report.html.j2", "headwater/__main__.py"} <= set(names)
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if name.startswith(("tests/", "docs/", "docker/"))]
    metadata = ZipFile(wheel).read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    plain = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert not {name.lower() for name in plain} & set(EXTRAS), "the data half needs none of them"


def test_the_data_half_works_without_the_other(home: Path) -> None:
    code = (
        "import headwater, pyarrow as pa, infra, sys; assert 'clean' in infra.__file__, infra.__file__\n"
        "page = headwater.extract('<html><body><p>' + 'The mill stands by the river. ' * 9 + '</p></body></html>')\n"
        "table = pa.table({'text': [page.text, page.text, 'Another text.']})\n"
        "print(headwater.dedup(table).kept.num_rows, headwater.measure(table)['words'].to_pylist())\n"
    )
    done = call(home, ["-c", code])
    assert done.stdout.split("\n")[0] == "2 [54, 54, 2]", done.stderr


def test_the_command_works_and_says_what_is_missing(home: Path) -> None:
    assert re.fullmatch(r"headwater \d+\.\d+\.\d+\n", call(home, ["-m", "headwater", "--version"]).stdout)
    assert "Usage: headwater" in call(home, ["-m", "headwater", "-h"]).stdout
    (home / "rows.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n')
    (home / "mine.yaml").write_text(
        "stages: {ingest: {sources: [{name: mine, kind: jsonl, address: rows.jsonl, profile: none}]}}\n"
    )
    done = call(home, ["-m", "headwater", "run", "mine.yaml", "--json"])
    assert '"action": "RUN"' in done.stdout, done.stderr
    for words, package in ((["plan", "demo"], "train"), (["up"], "prefect")):
        failed = call(home, ["-m", "headwater", *words])
        assert failed.returncode == 1
        assert "which is not installed here" in failed.stderr
        assert f"pip install 'headwater[{package}]'" in failed.stderr
