"""Both texts can be read back from their difference."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup.difference import difference

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d,", "é\n", "a\n\nb"]), max_size=30).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(one=TEXTS, other=TEXTS)
def test_the_hunks_hold_both_texts(one: str, other: str) -> None:
    found = difference(one, other)
    assert " ".join(h.text for h in found.hunks if h.side != "survivor").split() == one.split()
    assert " ".join(h.text for h in found.hunks if h.side != "dropped").split() == other.split()
    assert 0.0 <= found.similarity <= found.containment <= 1.0


def test_a_changed_word_is_all_that_differs() -> None:
    found = difference("the quick brown fox jumps", "the quick red fox  jumps")
    assert [(h.side, h.text.strip()) for h in found.hunks] == [
        ("both", "the quick"),
        ("dropped", "brown"),
        ("survivor", "red"),
        ("both", "fox jumps"),
    ]


def test_long_texts_are_compared_by_line() -> None:
    lines = [f"line number {i} of a long text\n" for i in range(3000)]
    found = difference("".join(lines), "".join([*lines[:1500], "one more\n", *lines[1500:]]))
    assert [h.side for h in found.hunks] == ["both", "survivor", "both"]
    assert found.containment > 0.99
