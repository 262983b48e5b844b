"""Other systems, each in an environment of its own below ``.cache/bench`` of the checkout."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.errors import HeadwaterError
from tests.support import REPOSITORY

HOME = REPOSITORY / ".cache" / "bench"
DATATROVE = ("datatrove[io,processing]==0.10.1", "lxml_html_clean", "spacy", "nltk", "orjson", "xxhash")
TRL = ("trl==1.16.0", "torch==2.13.0", "transformers==5.23.0")
RENSA = "rensa==0.5.0"
ATTEMPTS = 3
"""A registry may be short of breath for a moment."""


def datatrove_python() -> str:
    """The interpreter of an environment with datatrove, made at the first use."""
    return _environment("datatrove-0.10.1", DATATROVE)


def trl_python() -> str:
    """The interpreter of an environment with TRL."""
    return _environment("trl-1.16.0", TRL)


def _environment(name: str, packages: Sequence[str]) -> str:
    folder = HOME / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
        _run([str(python), "-m", "pip", "install", "--quiet", *packages], name)
        (folder / "complete").touch()
    return str(python)


def rensa_folder() -> str:
    """A folder with rensa alone: it needs nothing and runs in our interpreter."""
    folder = HOME / "rensa-0.5.0"
    if not (folder / "complete").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), RENSA]
        _run(install, "rensa")
        (folder / "complete").touch()
    return str(folder)


def _run(command: list[str], name: str) -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            return
    raise HeadwaterError(
        f"{name} cannot be installed: {(done.stderr or done.stdout).strip().splitlines()[-1][-300:]}",
        where=str(Path(HOME)),
        remedy="Check the network, or compare without peers: --skip-peers.",
    )
