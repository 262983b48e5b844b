"""Signatures: the same as datasketch's, of shingles anyone can compute."""

import math

import datasketch
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup import DedupConfig
from pipeline.dedup.minhash import band_keys, catch_probability, permutations
from pipeline.dedup.shingles import xxh32
from pipeline.dedup.sign import Signer
from pipeline.words import normalised_words

TEXTS = st.lists(
    st.text(st.sampled_from("ab zé ñ一二ก.,-\n\U0001f600\U00020001É"), max_size=80), min_size=1, max_size=5
)


def signer(ngram: int = 5, seed: int = 1, bands: int = 14, rows: int = 8) -> Signer:
    return Signer.create(DedupConfig(ngram=ngram, seed=seed, preset="custom", bands=bands, rows=rows))


def buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in encoded])]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def shingles_of(text: str, ngram: int) -> list[str]:
    words = normalised_words(text)
    return [" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))] if words else []


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, ngram=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_signatures_equal_those_of_datasketch(texts: list[str], ngram: int, seed: int) -> None:
    ours = signer(ngram, seed)
    hashes, counts = ours.shingles(*buffers(texts))
    signatures = ours.signatures(hashes, counts)
    for text, signature in zip(texts, signatures, strict=True):
        theirs = datasketch.MinHash(112, seed=seed, hashfunc=xxhash.xxh32_intdigest, scheme="affine32")
        theirs.update_batch([shingle.encode() for shingle in shingles_of(text, ngram)])
        assert (theirs.hashvalues == signature).all()


def test_signatures_work_in_datasketch_lsh() -> None:
    ours = signer()
    text = " ".join(f"word{i}" for i in range(100))
    signature = ours.signatures(*ours.shingles(*buffers([text])))[0]
    lsh = datasketch.MinHashLSH(threshold=0.8, num_perm=112)
    theirs = datasketch.MinHash(112, seed=1, hashfunc=xxhash.xxh32_intdigest, scheme="affine32")
    theirs.update_batch([shingle.encode() for shingle in shingles_of(text, 5)])
    lsh.insert("it", theirs)
    assert lsh.query(datasketch.MinHash(seed=1, hashvalues=signature, scheme="affine32")) == ["it"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_xxh32_is_the_stock_hash(data: bytes) -> None:
    assert int(xxh32(np.frombuffer(data, np.uint8), 0, len(data))) == xxhash.xxh32_intdigest(data)


def test_permutations_are_drawn_as_datasketch_does() -> None:
    assert (permutations(200, 7) == datasketch.MinHash(200, seed=7).permutations).all()


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
def test_a_text_is_the_set_of_its_shingles(texts: list[str]) -> None:
    hashes, counts = signer(ngram=2).shingles(*buffers(texts))
    at = 0
    for text, count in zip(texts, counts, strict=True):
        wanted = dict.fromkeys(xxhash.xxh32_intdigest(shingle.encode()) for shingle in shingles_of(text, 2))
        assert hashes[at : at + count].tolist() == list(wanted)
        at += count


def test_long_texts_are_shingled_up_to_the_cap() -> None:
    short = Signer.create(DedupConfig(max_characters=1000))
    words = [f"{i:04}" for i in range(5000)]
    _, counts = short.shingles(*buffers([" ".join(words)]))
    assert counts[0] == 1000 // 5 - 4


def test_agreement_in_a_band_means_equal_keys() -> None:
    rng = np.random.default_rng(1)
    signatures = rng.integers(0, 2**32, (2, 12), dtype=np.uint32)
    signatures[1, 4:8] = signatures[0, 4:8]
    keys = np.empty((2, 3), np.uint64)
    band_keys(signatures, np.zeros(2, np.uint64), 4, keys)
    assert (keys[0] == keys[1]).tolist() == [False, True, False]
    band_keys(signatures, np.array([0, 1], np.uint64), 4, keys)
    assert not (keys[0] == keys[1]).any(), "another group is another key"


@pytest.mark.parametrize(("bands", "rows", "at_80"), [(14, 8, 0.924), (26, 11, 0.903), (20, 13, 0.677), (9, 13, 0.399)])
def test_catch_probability(bands: int, rows: int, at_80: float) -> None:
    assert math.isclose(catch_probability(0.8, bands, rows), at_80, abs_tol=0.001)


def test_nomination_follows_the_curve() -> None:
    """Random sets of known similarity agree in a band as often as theory says."""
    rng = np.random.default_rng(5)
    ours = signer()
    size, trials = 300, 400
    for similarity in (0.6, 0.75, 0.9):
        common = round(2 * size * similarity / (1 + similarity))
        caught = 0
        hashes = rng.integers(0, 2**32, (trials, 2 * size), dtype=np.uint32)
        hashes[:, size : size + common] = hashes[:, :common]
        signatures = ours.signatures(hashes.ravel(), np.full(2 * trials, size))
        keys = np.empty((2 * trials, 14), np.uint64)
        band_keys(signatures, np.zeros(2 * trials, np.uint64), 8, keys)
        caught = int((keys[0::2] == keys[1::2]).any(axis=1).sum())
        assert abs(caught / trials - catch_probability(common / (2 * size - common), 14, 8)) < 0.08
