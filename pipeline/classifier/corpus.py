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
    """Pieces of about ``words`` words, made of whole lines where lines are shorter; ``most`` of them, evenly spread."""
    pieces: list[tuple[str, int]] = []
    lines: list[str] = []
    size = 0
    for line in sample.text.split("\n"):
        tokens = line.split()
        for start in range(0, len(tokens), words):
            part = tokens[start : start + words]
            lines.append(" ".join(part))
            size += len(part)
            if size >= words:
                pieces.append(("\n".join(lines), size))
                lines, size = [], 0
    if size >= words / 2 or (size and not pieces):
        pieces.append(("\n".join(lines), size))
    if len(pieces) > most:
        pieces = [pieces[index * len(pieces) // most] for index in range(most)]
    return [Passage(sample.rank, sample.good, text, size) for text, size in pieces]


def balanced(items: Sequence[Passage], words: int) -> list[Passage]:
    """As many passages of both sides in every band of lengths, in an order that mixes them."""
    by_band: dict[tuple[int, bool], list[Passage]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (item.rank, item.text)):
        by_band[length_band(item, words), item.good].append(item)
    chosen: list[Passage] = []
    for band in sorted({band for band, _ in by_band}):
        number = min(len(by_band[band, True]), len(by_band[band, False]))
        chosen += by_band[band, True][:number] + by_band[band, False][:number]
    return shuffled(chosen)


def length_band(item: Passage, words: int, bands: int = 8) -> int:
    """Passages of one band differ in length by an eighth of a full one."""
    return item.words * bands // words


def half_and_half(first: Sequence[Passage], second: Sequence[Passage]) -> list[Passage]:
    """As many of the first as of the second, chosen by rank."""
    number = min(len(first), len(second))
    return [item for side in (first, second) for item in sorted(side, key=lambda item: (item.rank, item.text))[:number]]


def shuffled(items: Iterable[Passage]) -> list[Passage]:
    """An order that depends on the texts alone."""
    return sorted(items, key=lambda item: hashlib.blake2b(item.text.encode("utf-8", "surrogatepass")).digest())
