"""The benchmark's baseline knows lengths and nothing else, and what it holds out is held out everywhere."""

from pathlib import Path

import numpy as np

from alignment.conversations import is_held_out, read_conversations
from alignment.pair_files import read_comparisons
from alignment.records import Reading
from alignment.turns import Conversation
from tests.benchmarks.preference import HELD_OUT, PAIRS, by_length, credit, write_conversations
from tests.support import shared_data


def test_the_baseline_finds_what_length_says_and_no_more() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 300, (4000, 2)).astype(float)
    # People like replies of about sixty tokens: neither the longer nor the shorter one.
    away = np.abs(np.log(lengths) - np.log(60))
    ordered = np.where((away[:, 0] < away[:, 1])[:, None], lengths, lengths[:, ::-1])
    assert credit(by_length(ordered[:2000], ordered[2000:])).mean() > 0.9
    longer = np.sort(lengths, axis=1)[:, ::-1]
    assert credit(by_length(longer[:2000], longer[2000:])).mean() > 0.99
    assert abs(credit(by_length(lengths[:2000], lengths[2000:])).mean() - 0.5) < 0.04


def test_no_chat_is_learnt_whose_opening_is_measured(tmp_path: Path) -> None:
    files = [str(shared_data(name)) for name in PAIRS]
    chats = list(read_conversations(write_conversations(tmp_path / "chosen.jsonl", files)))
    learnt = {chat.messages[0].content.strip() for chat in chats if not is_held_out(chat, HELD_OUT)}
    pairs = [pair for file in files for _, pair in read_comparisons(file, Reading())]
    openings = [next(message.content for message in pair.prompt if message.role == "user") for pair in pairs]
    held = {opening for opening in openings if is_held_out(Conversation(opening, ()), HELD_OUT)}
    assert len(chats) > 3000 and 0.15 < len(held) / len(set(openings)) < 0.25
    assert not learnt & held
