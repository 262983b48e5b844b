"""No vote that was confirmed is lost, whatever happens to the process or the disk."""

import json
import os
from pathlib import Path

import pytest

from alignment.votes.log import LOG, VoteLog, read_votes
from infra.errors import InputError
from tests.alignment.votes.room import comparing, vote_all


def voted(tmp_path: Path) -> Path:
    with comparing(tmp_path, 3, repeats=0) as found:
        vote_all(found, "ada", lambda shown: "left")
    return tmp_path / LOG


def test_a_torn_last_line_is_mended_at_open(tmp_path: Path) -> None:
    path = voted(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"vote","shown":"')
    assert len(read_votes(path).standing) == 3  # by who only reads, it is left where it is
    with VoteLog(path) as log:
        assert len(log.votes.standing) == 3
        log.append({"kind": "prompt", "prompt": [], "annotator": "ada", "when": 0})
    lines = path.read_bytes().removeprefix(whole).splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["prompt"]


def test_damage_in_the_middle_is_told_and_not_mended(tmp_path: Path) -> None:
    path = voted(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in ([*lines[:2], b"{\n", *lines[2:]], lines[1:], [b'{"kind":"odd"}\n', *lines]):
        path.write_bytes(b"".join(damaged))
        for use in (read_votes, VoteLog):
            with pytest.raises(InputError, match=r"line \d+ of the log of votes is damaged"):
                use(path)
        assert path.read_bytes() == b"".join(damaged)


def test_one_process_writes(tmp_path: Path) -> None:
    path = voted(tmp_path)
    with VoteLog(path):
        with pytest.raises(InputError, match="another server takes votes here"):
            VoteLog(path)
        assert len(read_votes(path).standing) == 3
    VoteLog(path).close()


def test_of_an_entry_that_cannot_be_written_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = voted(tmp_path)
    whole = path.read_bytes()
    entry = {"kind": "prompt", "prompt": [], "annotator": "ada", "when": 0}
    with VoteLog(path) as log:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, data[:5], at))
        with pytest.raises(OSError, match="No space left"):
            log.append(entry)
        monkeypatch.undo()
        assert path.read_bytes() == whole and not log.votes.typed
        log.append(entry)
    assert len(read_votes(path).typed) == 1


def test_there_is_no_log_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no votes here yet"):
        read_votes(tmp_path / LOG)
