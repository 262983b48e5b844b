"""What the files of docker/ promise, checked without an engine."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import REPOSITORY

FOLDER = REPOSITORY / "docker"
DOCKERFILE = FOLDER / "Dockerfile"
COMPOSE = FOLDER / "compose.yaml"


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def instructions() -> list[str]:
    """The Dockerfile's instructions, without comments, each on one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    return [entry for entry in "\n".join(lines).replace("\\\n", " ").splitlines() if entry.strip()]


@pytest.mark.parametrize("path", [DOCKERFILE, *sorted((REPOSITORY / "tests/docker/standin").glob("*/Dockerfile"))])
def test_dockerfiles_pass_hadolint(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_valid_by_its_schema() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_resolves_the_file_with_every_profile(tmp_path: Path) -> None:
    command = [tool("docker-compose"), "--file", str(COMPOSE), "--profile", "*", "config", "--format", "json"]
    environment = {**os.environ, "HEADWATER_PORT": "4321", "HEADWATER_SECRETS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "1." in done.stderr[:20]:
        pytest.skip("only Compose 1 is here")
    assert done.returncode == 0, done.stderr
    resolved = json.loads(done.stdout)["services"]
    assert set(resolved) == set(services())
    published = resolved["server"]["ports"][0]
    assert (published["host_ip"], published["published"]) == ("127.0.0.1", "4321")
    assert [name for name, service in resolved.items() if service.get("ports")] == ["server"]


def test_images_and_packages_are_pinned() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    text = DOCKERFILE.read_text() + COMPOSE.read_text()
    assert "latest" not in text
    images = re.findall(r"image: (\S+)", COMPOSE.read_text()) + re.findall(r"PYTHON_IMAGE=(\S+)", text)
    assert images
    for image in images:
        assert re.search(r":.*\d+\.\d+", image), image
    assert set(re.findall(r"HEADWATER_VERSION:-([^}]*)}", COMPOSE.read_text())) == {version}
    for entry in instructions():
        for package in re.findall(r"pip install ((?:[a-z]\S* ?)+)", entry):
            assert all("==" in name for name in package.split()), entry
    constraints = (REPOSITORY / "constraints.txt").read_text().lower().replace("_", "-")
    listed = subprocess.run(
        [
            *(sys.executable, str(FOLDER / "requirements.py"), str(REPOSITORY / "pyproject.toml")),
            *("docker", "prefect", "s3", "train"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    names = [re.split(r"[<>=\[]", line)[0].lower().replace("_", "-") for line in listed if line]
    assert {"torch", "prefect", "prefect-docker", "s3fs"} <= set(names)
    assert [name for name in names if f"\n{name}==" not in f"\n{constraints}"] == []


def test_dependencies_come_before_the_code() -> None:
    entries = instructions()
    for target in ("cpu", "cuda"):
        start = entries.index(f"FROM runtime AS {target}")
        block = entries[start : start + 5]
        assert next(n for n, e in enumerate(block) if "/opt/headwater" in e) < next(
            n for n, e in enumerate(block) if ".whl" in e
        )
    dependencies = entries[entries.index("FROM build AS dependencies-cpu") : entries.index("FROM build AS package")]
    assert not [
        e for e in dependencies if e.startswith("COPY") and re.search(r"\b(flows|infra|pipeline|training)\b", e)
    ]


def test_final_images_have_no_compiler_no_root_and_a_health_check() -> None:
    text = "\n".join(instructions())
    final = text[text.index("FROM ${PYTHON_IMAGE} AS runtime") :]
    assert not re.search(r"apt-get|build-essential|gcc|g\+\+|clang|nvcc|cmake", final)
    for target in ("cpu", "cuda"):
        block = re.search(rf"FROM runtime AS {target}\n(.*?)(?=\nFROM|\Z)", text, re.DOTALL)
        assert block is not None
        assert re.findall(r"^USER (\S+)", block[1], re.MULTILINE)[-1] == "10001:10001"
    assert "HEALTHCHECK" in final


def test_every_service_is_held_in_bounds() -> None:
    for name, service in services().items():
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert "privileged" not in service, name


def test_secrets_come_as_files_and_stand_nowhere() -> None:
    for name, service in services().items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|AUTH|SECRET|TOKEN", key):
                assert str(value).startswith(("/run/secrets/", "${HEADWATER_SECRETS")), (name, key)
    assert {service for service, entry in services().items() if "postgres_password" in entry.get("secrets", [])} == {
        "postgres",
        "server",
    }
    for pattern in (r"(?i)(password|token|secret)\s*=\s*['\"][^'\"$]", r"https?://[^ ]*pypi", r"index-url\s*="):
        for path in (DOCKERFILE, *FOLDER.glob("*.sh")):
            assert not re.search(pattern, path.read_text()), (path, pattern)
    ignored = subprocess.run(
        ["git", "check-ignore", "docker/secrets/api_auth", "docker/.env", "docker/pip.conf", "docker/wheels/x.whl"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert len(ignored.stdout.split()) == 4


def test_nothing_but_the_code_enters_a_build() -> None:
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = {
        word
        for entry in instructions()
        if entry.startswith("COPY") and "--from" not in entry
        for word in entry.split()[1:-1]
        if not word.startswith("--")
    }
    assert copied <= set(allowed)
    assert not [path for path in allowed if path in ("docker", "tests", "docker/secrets", ".git", "workspace")]


def test_first_use_makes_secrets_once_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    folder.mkdir()
    shutil.copy2(FOLDER / "first-use.sh", folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER")}
    run = [str(folder / "first-use.sh")]
    first = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    secrets = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert set(secrets) == {"api_auth", "postgres_password"}
    assert re.fullmatch(r"headwater:[0-9a-f]{48}\n", secrets["api_auth"])
    assert re.fullmatch(r"[0-9a-f]{48}\n", secrets["postgres_password"])
    assert secrets["postgres_password"].strip() not in first.stdout
    settings = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if "=" in line)
    for path in (folder / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == int(settings["HEADWATER_UID"]) != 0
    assert not [value for value in secrets.values() if value.strip() in (folder / ".env").read_text()]
    (folder / ".env").write_text("HEADWATER_PORT=4300\n")
    subprocess.run(run, env=environment, capture_output=True, check=True)
    assert (folder / ".env").read_text() == "HEADWATER_PORT=4300\n"
    assert {path.name: path.read_text() for path in (folder / "secrets").iterdir()} == secrets


def test_make_up_says_that_it_starts_on_the_machine_where_no_engine_is(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "made $*"\n')
    make.chmod(0o755)
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock", "MAKE": str(make)}
    done = subprocess.run(["docker/up.sh"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("No container engine")
    assert second == "made --no-print-directory up-here"
