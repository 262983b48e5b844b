"""Images for the tests: the base images our files name, or stand-ins for them, and ours built on them.

Where no image registry can be reached, a base is made from the machine's own Debian packages and tagged with the name
that our files use. What the machine needs to reach its package registries (apt sources, certificates, pip's settings) is
copied in here and now, and is in no file of the repository.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.docker.engine import Engine
from tests.support import REPOSITORY

STANDIN = Path(__file__).parent / "standin"
IMAGE = "headwater:0.1.0-cpu"
DEBIAN = "headwater-test/debian:12"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_S = 1500


def base_names() -> tuple[str, str]:
    """The names of the base images, as our files spell them."""
    python = re.search(r"^ARG PYTHON_IMAGE=(\S+)", (REPOSITORY / "docker/Dockerfile").read_text(), re.MULTILINE)
    postgres = re.search(r"image: (postgres:\S+)", (REPOSITORY / "docker/compose.yaml").read_text())
    assert python is not None
    assert postgres is not None
    return python[1], postgres[1]


def ensure_bases(engine: Engine, folder: Path) -> None:
    python, postgres = base_names()
    for name, kind in ((python, "python"), (postgres, "postgres")):
        if not engine.has_image(name) and not _pulled(engine, name):
            _stand_in(engine, name, kind, folder)


def _pulled(engine: Engine, name: str) -> bool:
    engine.docker("pull", "--quiet", name, check=False, timeout=300)
    return engine.has_image(name)


def _stand_in(engine: Engine, name: str, kind: str, folder: Path) -> None:
    if not engine.has_image(DEBIAN):
        _debian(engine, folder)
    context = folder / kind
    shutil.copytree(STANDIN / kind, context)
    for part in ("sources.list.d", "apt.conf.d", "sources.list"):
        source = Path("/etc/apt", part)
        if source.is_dir():
            shutil.copytree(source, context / "apt" / part)
        elif source.exists():
            shutil.copy2(source, context / "apt" / part)
    shutil.copy2(CERTIFICATES, context)
    engine.docker("build", "--build-arg", f"BASE={DEBIAN}", "--tag", name, context, timeout=BUILD_S)


def _debian(engine: Engine, folder: Path) -> None:
    program = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        pytest.skip("no image registry can be reached, and a base cannot be made (debootstrap and root are needed)")
    root = folder / "root"
    subprocess.run(
        [program, "--variant=minbase", "--include=ca-certificates", "bookworm", str(root), *_mirror()],
        check=True,
        capture_output=True,
        timeout=BUILD_S,
    )
    archive = folder / "root.tar"
    subprocess.run(
        ["tar", "-C", str(root), "--exclude=./proc/*", "--exclude=./sys/*", "-cf", str(archive), "."], check=True
    )
    engine.docker("import", archive, DEBIAN)
    shutil.rmtree(root)
    archive.unlink()


def _mirror() -> list[str]:
    """Where this machine gets Debian from."""
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)"], capture_output=True, text=True, check=True
    )
    for line in asked.stdout.splitlines():
        site, _, codename = line.partition(" ")
        if codename == "bookworm":
            return [site]
    return []


def build(engine: Engine, tree: Path, target: str, tag: str) -> None:
    """Build one of our images from a tree, with the packages this machine's pip finds."""
    for folder in _wheel_folders():
        for wheel in folder.glob("torch-*.whl"):
            shutil.copy2(wheel, tree / "docker/wheels")
    engine.docker(
        *("build", "--file", tree / "docker/Dockerfile", "--target", target, "--tag", tag, tree), timeout=BUILD_S
    )


def _wheel_folders() -> list[Path]:
    """Local folders in which this machine's pip looks for wheels."""
    python = Path(sysconfig.get_path("scripts"), "python")
    listed = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    links = [*re.findall(r"find-links='([^']*)'", listed.stdout), os.environ.get("PIP_FIND_LINKS", "")]
    return [Path(entry) for value in links for entry in value.replace("\\n", " ").split() if Path(entry).is_dir()]
