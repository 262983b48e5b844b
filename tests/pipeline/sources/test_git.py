"""Repositories at a revision, local and fetched, with nothing of theirs run."""

import os
import subprocess
from pathlib import Path

import pytest

from infra.errors import ConfigError, InputError
from pipeline.extract.page import ExtractConfig
from pipeline.ingest import IngestConfig, external
from pipeline.sources import git as source
from pipeline.sources.contract import Outcome, Reading
from pipeline.sources.git import repository_name
from tests.pipeline.sources.archives import documents, rules
from tests.support import source_config

MIT = "MIT License\nPermission is hereby granted, free of charge, to any person … without restriction, including"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "tool"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "LICENSE").write_text(MIT)
    (folder / "src").mkdir()
    (folder / "src" / "main.py").write_text("print(1)\n")
    (folder / "wide.py").write_text("x = 1\n" * 400_000)
    (folder / "a\tb.py").write_text("tab = True\n")
    (folder / "link.py").symlink_to("/etc/passwd")
    # What a checkout or an archive would obey.
    (folder / ".gitattributes").write_text("*.py filter=evil export-ignore\n")
    git(folder, "config", "filter.evil.smudge", f"touch {tmp_path}/ran; cat")
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    git(folder, "tag", "-a", "v1", "-m", "first")
    (folder / "src" / "main.py").write_text("print(2)\n")
    git(folder, "commit", "-q", "-am", "two")
    return folder


def read_address(address: str, **options: object) -> list[Outcome]:
    config = source_config(name="test", kind="git", address=address, **options)
    reading = Reading(config, ExtractConfig())
    return [outcome for part in source.parts(config, []) for outcome in source.read(part, reading)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_files_of_a_commit_are_documents(repository: Path, tmp_path: Path, scheme: str) -> None:
    outcomes = read_address(f"{scheme}{repository}")
    found = {str(document["path"]): document for document in documents(outcomes)}
    assert sorted(found) == ["a\tb.py", "src/main.py"]
    assert found["src/main.py"]["text"] == "print(2)\n"
    assert found["src/main.py"]["license"] == "MIT"
    assert str(found["src/main.py"]["repo"]).endswith("tool")
    assert rules(outcomes) == ["file_too_large"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("remote", [False, True])
def test_an_earlier_revision(repository: Path, remote: bool) -> None:
    for revision in ("v1", git(repository, "rev-parse", "main~1")):
        address = f"file://{repository}" if remote else str(repository)
        texts = {
            str(document["path"]): document["text"] for document in documents(read_address(address, revision=revision))
        }
        assert texts["src/main.py"] == "print(1)\n"


def test_a_new_commit_is_noticed_by_the_plan(repository: Path) -> None:
    config = IngestConfig(sources=(source_config(name="code", kind="git", address=str(repository)),))
    before = external(config)
    assert external(config) == before
    (repository / "new.py").write_text("x = 1\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "three")
    assert external(config) != before


def test_what_is_wrong_is_one_sentence(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no revision 'nowhere'"):
        read_address(str(repository), revision="nowhere")
    with pytest.raises(InputError, match="no revision"):
        read_address(f"file://{repository}", revision="nowhere")
    with pytest.raises(ConfigError, match="is not a revision"):
        read_address(str(repository), revision="--upload-pack=touch x")
    with pytest.raises(InputError):
        read_address(str(tmp_path / "nothing"))
    with pytest.raises(InputError):
        read_address(f"file://{tmp_path}/nothing")
    with pytest.raises(InputError, match="larger than"):
        (repository / "noise.bin").write_bytes(os.urandom(200_000))
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "-m", "noise")
        read_address(f"file://{repository}", max_repository_bytes=50_000)


def test_names() -> None:
    assert repository_name("https://user@github.com/owner/name.git") == "github.com/owner/name"
    assert repository_name("/srv/git/name.git") == "name"
