"""What fine-tuning learns from: files by weight, and a report of what is in them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from alignment.fates import FateLedger
from alignment.material import Chats, describe, read_chats, times_of
from alignment.records import Reading
from alignment.turns import Conversation
from infra.errors import ConfigError
from tests.alignment.toys import LetterTokenizer

TOKENIZER = LetterTokenizer()


@dataclass
class Files:
    conversations: tuple[str, ...]
    weights: tuple[float, ...] = ()
    held_out_fraction: float = 0.2
    row_length: int = 60
    generation_prompts: int = 4


def write(path: Path, answer: str, number: int) -> str:
    rows = [{"id": f"{answer}-{n}", "prompt": "who?", "completion": answer} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(files: Files) -> tuple[Chats, FateLedger, Reading]:
    ledger, reading = FateLedger("sft", None), Reading()
    return read_chats(files, {}, TOKENIZER, reading, ledger), ledger, reading


def test_a_file_is_seen_as_often_as_its_weight_says_and_measured_once(tmp_path: Path) -> None:
    paths = (write(tmp_path / "a.jsonl", "ann", 400), write(tmp_path / "b.jsonl", "ben", 400))
    plain, _, _ = read(Files(paths))
    weighted, ledger, reading = read(Files(paths, (2.5, 0.25)))
    assert weighted.held_out == plain.held_out and len(plain.training) == 800 - len(plain.held_out)

    def seen(chats: Chats, name: str) -> int:
        return sum(source.startswith(name) for source in chats.sources)

    assert seen(weighted, "ann") == pytest.approx(2.5 * seen(plain, "ann"), rel=0.08)
    assert seen(weighted, "ben") == pytest.approx(0.25 * seen(plain, "ben"), rel=0.3)
    assert {weighted.sources.count(name) for name in set(weighted.sources) if name.startswith("ann")} == {2, 3}
    assert ledger.lost["left_out_by_weight"] + ledger.kept == reading.read == 800
    assert read(Files(paths, (2.5, 0.25)))[0].sources == weighted.sources
    with pytest.raises(ConfigError, match="1 weights for 2 files"):
        read(Files(paths, (1.0,)))


def test_whole_weights_hang_on_no_draw() -> None:
    assert {times_of(Conversation(str(n), ()), 2.0) for n in range(50)} == {2}


def test_the_report_shows_what_is_learnt(tmp_path: Path) -> None:
    chats, _, _ = read(Files((write(tmp_path / "a.jsonl", "ann", 30),)))
    told = describe(chats, TOKENIZER, {"en": 30})
    assert (
        told["conversations"] == 30 and told["turns"]["median"] == 2 and told["roles"] == {"assistant": 30, "user": 30}
    )  # type: ignore[call-overload, index]
    assert told["sample"][0]["runs"] == [["<s><|user|>who?<|end|><|assistant|>", False], ["ann<|end|>", True]]  # type: ignore[call-overload, index]
    assert told["taught_share"] == round(4 / 12, 4)
    json.dumps(told)
