"""How good extracted text is: token F1 against the full main text, and hit rates of segments.

Token F1 compares the words of both texts as multisets, page by page, and averages over the pages. For pages of which
only segments are known, precision is the share of unwanted segments left out, recall that of wanted ones found.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Score:
    """Mean F1, precision and recall over ``pages`` pages."""

    f1: float
    precision: float
    recall: float
    pages: int


def token_f1(found: str, expected: str) -> tuple[float, float, float]:
    """F1, precision and recall of the words of two texts."""
    have, want = Counter(WORD.findall(found.lower())), Counter(WORD.findall(expected.lower()))
    common = sum((have & want).values())
    if not have or not want:
        equal = float(not have and not want)
        return equal, equal, equal
    precision, recall = common / sum(have.values()), common / sum(want.values())
    return (2 * precision * recall / (precision + recall) if common else 0.0), precision, recall


def read_gold(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def full_text_score(texts: Mapping[str, str], gold: Iterable[Mapping[str, Any]]) -> Score:
    """Over the pages with a full gold text; a page without extracted text counts as empty."""
    scores = [token_f1(texts.get(page["url"], ""), page["text"]) for page in gold if page["type"] == "full"]
    count = max(1, len(scores))
    f1, precision, recall = (sum(score[part] for score in scores) / count for part in range(3))
    return Score(f1, precision, recall, len(scores))


def segment_score(texts: Mapping[str, str], gold: Iterable[Mapping[str, Any]]) -> Score:
    """Over the pages with segments: all segments of all pages together."""
    hits = misses = false = pages = 0
    for page in gold:
        if page["type"] != "segments":
            continue
        pages += 1
        text = _normal(texts.get(page["url"], ""))
        hits += sum(_normal(segment) in text for segment in page["with"])
        misses += sum(_normal(segment) not in text for segment in page["with"])
        false += sum(_normal(segment) in text for segment in page["without"])
    precision, recall = hits / max(1, hits + false), hits / max(1, hits + misses)
    return Score(2 * precision * recall / max(1e-9, precision + recall), precision, recall, pages)


def _normal(text: str) -> str:
    return " ".join(text.split())
