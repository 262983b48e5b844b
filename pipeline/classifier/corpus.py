"""Training material: documents of both sides, deduplicated, cut into passages, matched in length and balanced.

documents   of each side the ones with the smallest hashes of their ids: a sample that depends on nothing else
overlap     a text that is on both sides says nothing: it is taken out of both; a text twice on one side counts once
passages    pieces of a set number of words, spread over the document, so that long documents do not dominate
balance     from each band of passage lengths the same number of both sides, so that length teaches nothing
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A document of one side. ``rank`` orders documents at random but always the same; it also decides the hold-out."""

    rank: int
    good: bool
    id: bytes
    url: str
    source: str
    language: str
    text: str


@dataclass(frozen=True)
class Passage:
    rank: int
    good: bool
    text: str
    words: int


def rank_of(seed: int, id: bytes) -> int:
    """A 63-bit random number that belongs to an id."""
    return int.from_bytes(hashlib.blake2b(id, digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big") >> 1


def held_out(sample: Sample, share: float) -> bool:
    """Whether a document is kept away from training: by another hash than the rank, so that both are independent."""
    draw = hashlib.blake2b(sample.id, digest_size=8, person=b"held-out").digest()
    return int.from_bytes(draw, "big") < share * 2**64


def text_key(text: str) -> bytes:
    """Equal for texts that differ in case, punctuation and spacing only."""
    letters = "".join(character for character in text.lower() if character.isalnum())
    return hashlib.blake2b(letters.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def without_overlap(samples: Iterable[Sample]) -> tuple[list[Sample], int]:
    """Documents in rank order, each text once and only on one side; and how many were taken out."""
    ordered = sorted(samples, key=lambda sample: (sample.rank, sample.id, not sample.good))
    sides: dict[bytes, set[bool]] = defaultdict(set)
    keys = [text_key(sample.text) for sample in ordered]
    for key, sample in zip(keys, ordered, strict=True):
        sides[key].add(sample.good)
    seen: set[bytes] = set()
    chosen = []
    for key, sample in zip(keys, ordered, strict=True):
        if len(sides[key]) == 1 and key not in seen:
            seen.add(key)
            chosen.append(sample)
    return chosen, len(ordered) - len(chosen)


def passages(sample: Sample, words: int, most: int) -> list[Passage]:
    """Pieces of ``words`` words, at most ``most`` of them, evenly spread over the document."""
    tokens = sample.text.split()
    if not tokens:
        return []
    starts = list(range(0, len(tokens), words))
    if len(starts) > 1 and len(tokens) - starts[-1] < words / 2:
        starts.pop()
    if len(starts) > most:
        starts = [starts[index * len(starts) // most] for index in range(most)]
    pieces = [tokens[start : start + words] for start in starts]
    return [Passage(sample.rank, sample.good, " ".join(piece), len(piece)) for piece in pieces]


def balanced(items: Sequence[Passage], words: int, bands: int = 8) -> list[Passage]:
    """As many passages of both sides in every band of lengths, in an order that mixes them."""
    by_band: dict[tuple[int, bool], list[Passage]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (item.rank, item.text)):
        by_band[min(bands - 1, item.words * bands // (words + 1)), item.good].append(item)
    chosen: list[Passage] = []
    for band in range(bands):
        number = min(len(by_band[band, True]), len(by_band[band, False]))
        chosen += by_band[band, True][:number] + by_band[band, False][:number]
    return sorted(chosen, key=lambda item: hashlib.blake2b(item.text.encode("utf-8", "surrogatepass")).digest())
