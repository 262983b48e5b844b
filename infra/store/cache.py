"""Local copies of files that lie in an object store, for readers that map memory or want a path.

    $HEADWATER_CACHE (default ~/.cache/headwater)/
      datasets/<name>-<fingerprint>-<digest>/data/…   published files, verified against their manifest as they arrive
      files/<digest of address and version>/…         files of work in progress, with the name of their folder
      sources/<digest of its contents>.json           what a source file says, see infra.stage_source
      archives/<digest of their address>.json         digests of a folder's archives, see pipeline.sources.digests
      workspaces/<bucket-prefix-digest>/              this machine's own files of a remote workspace (work, logs, server)

A copy is keyed by its content, so it is never wrong, only unused: anything here may be deleted at any time between runs.
Copies appear by rename, so any number of processes may ask for the same one.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from infra.errors import InputError
from infra.store.files import OutputFile, filesystem, is_local, replacing, sha256_file


def cache_root() -> Path:
    """This machine's folder for copies: ``HEADWATER_CACHE``, or below the user's cache folder. Not made here."""
    own = os.environ.get("HEADWATER_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater"


def workspace_folder(address: str) -> Path:
    """Where this machine keeps its own files of a remote workspace."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", address.split("://", 1)[-1]).strip("-")
    return cache_root() / "workspaces" / f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def local_file(url: str) -> Path:
    """A file of any address as a local path: itself, or a copy of its present version."""
    if is_local(url):
        return Path(url.removeprefix("file://"))
    fs, path = filesystem(url)
    version = hashlib.sha256(f"{url} {fs.ukey(path)}".encode()).hexdigest()
    target = cache_root().joinpath("files", version, *path.rsplit("/", 2)[-2:])
    if not target.exists():
        _download(url, target, None)
    return target


def staged(key: str, root: str, outputs: Sequence[OutputFile]) -> Path:
    """The local folder of a dataset, with copies of these of its files in their places."""
    folder = cache_root() / "datasets" / key
    for output in outputs:
        target = folder / output.path
        if not target.exists() or target.stat().st_size != output.bytes:
            _download(f"{root}/{output.path}", target, output.digest)
    return folder


def dataset_key(name: str, fingerprint: str, outputs: Sequence[OutputFile]) -> str:
    """By all files, also those outside the output digest: a forced rebuild writes other logs."""
    rows = "\n".join(f"{output.path} {output.digest}" for output in outputs)
    return f"{name}-{fingerprint}-{hashlib.sha256(rows.encode()).hexdigest()[:16]}"


def _download(url: str, target: Path, digest: str | None) -> None:
    fs, path = filesystem(url)
    with replacing(target) as beside:
        fs.get_file(path, str(beside))
        if digest is not None and sha256_file(beside) != digest:
            raise InputError(
                "a published file does not have the bytes its manifest promises",
                where=url,
                remedy="Run its stage again with --force.",
            )
