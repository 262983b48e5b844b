"""The CPU image, built by a real engine."""

import json
from pathlib import Path

import pytest

from tests.docker.engine import Engine
from tests.docker.images import IMAGE

pytestmark = pytest.mark.slow

LARGEST_BYTES = 2_400_000_000
COMPILERS = "gcc cc c++ g++ clang ld as make cmake nvcc rustc go"


def run(engine: Engine, *command: str) -> str:
    return engine.docker("run", "--rm", "--network", "none", IMAGE, *command)


def test_it_runs_without_root_and_can_write_where_it_must(container_engine: Engine, built: Path) -> None:
    script = "import os, pathlib; print(os.getuid()); [pathlib.Path(p, 'x').touch() for p in ('/workspace', '/tmp')]"
    assert run(container_engine, "python", "-c", script).strip() == "10001"
    other = container_engine.docker("run", "--rm", "--user", "4711:4711", IMAGE, "python", "-c", script)
    assert other.strip() == "4711"
    for path in ("/opt/headwater", "/usr/local/bin/headwater-entrypoint"):
        assert "no" in run(container_engine, "sh", "-c", f"test -w {path} && echo yes || echo no")


def test_it_holds_no_compiler_and_no_tool_of_the_build(container_engine: Engine, built: Path) -> None:
    found = run(container_engine, "sh", "-c", f"for name in {COMPILERS}; do command -v $name || true; done")
    assert found == ""
    left = "find /wheels /dist /build /src /root/.cache -type f 2> /dev/null || true"
    assert container_engine.docker("run", "--rm", "--user", "0", IMAGE, "sh", "-c", left) == ""


def test_it_is_bounded_and_code_is_its_smallest_layer(container_engine: Engine, built: Path) -> None:
    [description] = json.loads(container_engine.docker("image", "inspect", IMAGE))
    assert description["Size"] < LARGEST_BYTES
    history = container_engine.docker(
        "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE
    )
    sizes = [(int(line.split("\t")[0]), line) for line in history.splitlines()]
    [code] = [size for size, line in sizes if ".whl" in line]
    [dependencies] = [size for size, line in sizes if "COPY /opt/headwater" in line]
    assert code < 20_000_000 < dependencies
    config = description["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "flows.operate.health"]


def test_everything_imports_in_it(container_engine: Engine, built: Path) -> None:
    modules = (
        "flows.cli.main flows.operate.worker flows.operate.containers flows.operate.deploying "
        "training.pretrain s3fs torch deepspeed"
    )
    code = f"import importlib; [importlib.import_module(name) for name in '{modules}'.split()]; print('all')"
    assert run(container_engine, "python", "-c", code).splitlines()[-1] == "all"
    assert '"stages"' in run(container_engine, "headwater", "plan", "smoke", "--json")


def test_nothing_of_the_checkout_but_the_code_is_in_it(container_engine: Engine, built: Path) -> None:
    (built / "docker/secrets").mkdir(exist_ok=True)
    packages = "/opt/headwater/lib/python3.11/site-packages"
    assert "No such file" in container_engine.docker("run", "--rm", IMAGE, "ls", f"{packages}/tests", check=False)
    search = "find / -xdev ( -name .env -o -name pip.conf -o -name api_auth ) -print"
    assert container_engine.docker("run", "--rm", "--user", "0", IMAGE, *search.split()) == ""
