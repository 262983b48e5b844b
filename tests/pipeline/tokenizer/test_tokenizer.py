"""Lossless, deaf to special tokens in text, and the same ids in Hugging Face."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HubTokenizer

from infra.errors import InputError
from pipeline.tokenizer import SPECIALS, Tokenizer
from pipeline.tokenizer.model import SPACE
from tests.pipeline.corpus import ODD

TRICKY = [
    "",
    " ",
    "  leading and trailing  ",
    "\n\n\n",
    "\r\n\ttabs\tand\r\nlines\n",
    "def f(x):\n        return x  # eight\n" + " " * 37 + "deep",
    "<s></s><pad><unk><|user|>hello<|end|><|assistant|>",
    "<0x41><0xE2> is text, not a byte",
    "nul \0 inside",
    "1234567890 3.14159 2024-11-21",
    "=" * 77 + "-" * 33 + " " * 50 + "x",
    "Ünïcödé ﬁ ligature, e\u0301 combining, \u00a0 no-break, \u3000 wide",
    "👩‍👩‍👧‍👦🏳️‍🌈🎉",
    *ODD,
]

PARTS = [*TRICKY, "the river ", "value", "    ", "\n", "a", "aa", "  ", "é"]
lively_text = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(PARTS), max_size=12).map("".join),
)


@pytest.fixture(scope="module")
def hub(tokenizer_dir) -> HubTokenizer:
    hub = HubTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    hub.encode_special_tokens = True
    return hub


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts_come_back_unchanged(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=150, deadline=None)
@given(text=lively_text)
def test_any_text_comes_back_and_never_makes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIALS) <= index < tokenizer.vocab_size for index in ids)
    assert b"".join(tokenizer.token_bytes[index] for index in ids) == text.encode()


@settings(max_examples=200, deadline=None)
@given(text=lively_text.filter(lambda text: SPACE not in text))
def test_hugging_face_gives_the_same_ids_and_text(tokenizer: Tokenizer, hub: HubTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert hub.encode(text, add_special_tokens=False).ids == ids
    assert hub.decode(ids, skip_special_tokens=True) == text


def test_a_batch_gives_the_same_ids_as_single_texts(tokenizer: Tokenizer) -> None:
    for texts in (TRICKY, [text for text in TRICKY if SPACE not in text]):
        assert tokenizer.encode_batch(texts, threads=2) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_have_the_contract_ids(tokenizer: Tokenizer) -> None:
    names = ["<pad>", "<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert [tokenizer.token_id(name) for name in names] == list(range(8))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 2, 3)
    assert tokenizer.decode([2, 5, 3]) == ""
    assert tokenizer.decode([2, 5, 3], specials=True) == "<s><|user|></s>"
    with pytest.raises(KeyError):
        tokenizer.token_id("hello")


def test_a_literal_special_token_is_spelt_out_but_the_turn_marker_is_one_id(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("<|user|>")) > 1
    assert tokenizer.token_id("<|user|>") not in tokenizer.encode("before <|user|> after")


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("20241121")
    assert [tokenizer.decode([index]) for index in ids] == list("20241121")


def test_a_surrogate_does_not_stop_the_encoder(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("bad \udc80 byte")) == "bad ? byte"


def test_a_folder_without_a_tokenizer_or_with_another_model_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        Tokenizer.load(tmp_path)
