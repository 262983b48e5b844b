"""Code from a git repository, at one revision: a local one (bare or not), or one fetched by URL.

    parts   the revision becomes a commit, whose hash is the unit's identity: a branch that moved is another unit
    read    the commit's files as git stores them, straight from its objects: nothing is checked out, so no hook, filter
            or attribute of the repository runs, and no path or link of it ever reaches the disk

A remote repository is fetched without history into a temporary folder, up to ``max_repository_bytes``.
"""

import contextlib
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

from pydantic import Field

from infra.errors import ConfigError, InputError
from pipeline.sources import code
from pipeline.sources.code_archives import ArchiveCut, Entry
from pipeline.sources.contract import Archive, Outcome, Part, Reading

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
REMOTE = ("https://", "http://", "ssh://", "git://", "file://")
SECONDS = 1800
# What could run a program, ask a question or leave the machine in an unknown way is off.
SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "protocol.http.allow": "always",
    "protocol.ssh.allow": "always",
    "protocol.git.allow": "always",
    "protocol.file.allow": "always",
    "safe.directory": "*",
    "fetch.unpackLimit": "1",  # what comes is one file, whose size has a limit
}


class GitSource(code.CodeOptions):
    """A git repository at one revision."""

    kind: Literal["git"]
    revision: str = Field(default="", description="Commit, branch or tag; empty: the newest.")
    max_repository_bytes: int = Field(default=2_000_000_000, ge=1_000, description="Largest fetch of a repository.")


def parts(config: GitSource, _archives: list[Archive]) -> Iterable[Part]:
    """The repository at its revision: one unit."""
    return [Part(Archive(repository_name(config.address), config.address, 0, commit_of(config)))]


def read(part: Part, reading: Reading[GitSource]) -> Iterator[Outcome]:
    """The code files of the commit as documents, or with the reason why not."""
    archive, source = part.archive, reading.source
    with _objects(archive.url, archive.digest, source.max_repository_bytes) as folder:
        local = replace(archive, url=folder)
        yield from code.read_files(local, reading, lambda bound: entries(folder, archive.digest, bound), archive.name)


def local_identity(config: GitSource) -> str | None:
    """The commit of a local repository; a remote one is asked when the stage runs."""
    return None if is_remote(config.address) else commit_of(config)


def is_remote(address: str) -> bool:
    return address.startswith(REMOTE)


def repository_name(address: str) -> str:
    """``github.com/owner/name`` of a URL, the folder's name of a path."""
    if not is_remote(address):
        return Path(address).expanduser().resolve().name.removesuffix(".git")
    place = address.partition("://")[2].rpartition("@")[2]
    return place.strip("/").removesuffix(".git")


def commit_of(config: GitSource) -> str:
    """The commit that the source's revision names now."""
    revision = config.revision or "HEAD"
    if revision.startswith("-") or ".." in revision:
        raise ConfigError(
            f"{revision!r} is not a revision", where=f"source {config.name}", remedy="Name a commit, branch or tag."
        )
    if COMMIT.fullmatch(revision):
        return revision
    if is_remote(config.address):
        listing = _git("ls-remote", "--", config.address, revision, f"{revision}^{{}}", where=config.address)
        lines = [line.split("\t") for line in listing.decode("utf-8", "replace").splitlines()]
        # An annotated tag is listed twice; its second line is the commit.
        found = next((commit for commit, name in reversed(lines)), "")
    else:
        folder = str(Path(config.address).expanduser())
        found = (
            _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", folder=folder)
            .decode()
            .strip()
        )
    if not COMMIT.fullmatch(found):
        raise InputError(f"the repository has no revision {revision!r}", where=config.address, remedy="Set revision.")
    return found


@contextlib.contextmanager
def _objects(address: str, commit: str, most: int) -> Iterator[str]:
    """A folder of git objects with the commit in it."""
    if not is_remote(address):
        yield str(Path(address).expanduser())
        return
    with tempfile.TemporaryDirectory(prefix="headwater-git-") as folder:
        _git("init", "--quiet", "--bare", "--template=", folder, where=address)
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", address, commit)
        _git(*fetch, folder=folder, where=address, most=most)
        yield folder


def entries(folder: str, commit: str, bound: int) -> Iterator[Entry]:
    """Every regular file of a commit, by path, with its content up to the bound."""
    listing = _git("ls-tree", "-r", "-z", "-l", "--full-tree", commit, folder=folder)
    command = _command("cat-file", "--batch", folder=folder)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
    ) as process:
        assert process.stdin
        assert process.stdout
        for line in listing.split(b"\0"):
            head, _, name = line.partition(b"\t")
            if not head.startswith(b"100"):  # links, submodules
                continue
            _, _, blob, size = head.split()
            path = name.decode("utf-8", "backslashreplace")
            if not size.isdigit():  # the object is not there
                yield Entry(path, 0, b"", problem="its object is missing", damaged=True)
                continue
            if int(size) > bound:
                yield Entry(path, int(size), b"")
                continue
            process.stdin.write(blob + b"\n")
            process.stdin.flush()
            yield _blob(process.stdout, path, int(size))
        process.stdin.close()


def _blob(stream: IO[bytes], path: str, size: int) -> Entry:
    head = stream.readline()
    if head.endswith(b" missing\n"):
        return Entry(path, size, b"", problem="its object is missing", damaged=True)
    content = stream.read(size + 1)
    if len(content) != size + 1 or not head.endswith(b" %d\n" % size):
        raise ArchiveCut(f"the object of {path} is damaged: run git fsck there")
    return Entry(path, size, content[:-1])


def _command(*arguments: str, folder: str = "") -> list[str]:
    settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
    return ["git", *settings, *(["-C", folder] if folder else []), *arguments]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}


def _git(*arguments: str, folder: str = "", where: str = "", most: int = 0) -> bytes:
    """``most``: the longest file it may write, which is the pack that a fetch brings."""
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))) if most else None
    try:
        done = subprocess.run(
            _command(*arguments, folder=folder), capture_output=True, check=False, timeout=SECONDS,
            env=_environment(), stdin=subprocess.DEVNULL, preexec_fn=limit,
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(
            "git is not installed", where=where or folder, remedy="Install git, or give an archive."
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"git {arguments[0]} took longer than {SECONDS} s", where=where or folder) from None
    if done.returncode and arguments[0] != "rev-parse":
        said = done.stderr.decode("utf-8", "replace").strip()
        if most and "invalid index-pack output" in said:  # what git says when the limit ended the writer
            text, remedy = f"the repository is larger than {most} bytes", "Raise max_repository_bytes."
        else:
            text = f"git {arguments[0]}: {said.splitlines()[-1][:200] if said else f'exit code {done.returncode}'}"
            remedy = "Check the address and the revision."
        raise InputError(text, where=where or folder, remedy=remedy)
    return done.stdout
