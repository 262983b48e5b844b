"""fastText models: loading, and scoring in batches.

The package's Python ``predict`` breaks on NumPy 2 and is slow; the compiled call behind it takes a line and returns
``[(probability, label)]``. A line must end in a newline and hold no other: newlines inside a text become spaces (to
drop them would glue words together).
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import InputError
from infra.store.files import is_local, read_bytes

PREFIX = "__label__"


@lru_cache(maxsize=4)
def load_model(path: Path) -> Any:
    """The compiled model behind a file, kept for the worker's lifetime. Published files never change."""
    from fasttext.FastText import _FastText

    try:
        return _FastText(model_path=str(path)).f
    except ValueError as error:
        raise InputError(
            "this is not a fastText model", where=str(path), remedy="Give a .bin or .ftz file that fastText wrote."
        ) from error


def best_label(model: Any, texts: Sequence[str]) -> Iterator[tuple[str | None, float]]:
    """The most probable label of each text (None for a text without words) and its probability."""
    for text in texts:
        found = model.predict(one_line(text), 1, 0.0, "strict")
        if found:
            probability, label = found[0]
            yield label.removeprefix(PREFIX), min(1.0, probability)
        else:
            yield None, 0.0


def probability_of(model: Any, label: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """The probability of one of two labels for each text; one half for a text without words."""
    scores = np.full(len(texts), 0.5, np.float32)
    name = PREFIX + label
    for index, text in enumerate(texts):
        for probability, found in model.predict(one_line(text), 2, 0.0, "strict"):
            if found == name:
                scores[index] = min(1.0, probability)
    return scores


def one_line(text: str) -> str:
    """The form of a text that fastText reads."""
    return text.replace("\n", " ") + "\n"


def local_copy(url: str, scratch: Path) -> Path:
    """A file as a local path: itself, or a copy where it lies on an object store."""
    if is_local(url):
        path = Path(url.removeprefix("file://"))
        if not path.is_file():
            raise _absent(url)
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    content = read_model(url)
    path = scratch / f"{hashlib.sha256(content).hexdigest()}{Path(url).suffix}"
    path.write_bytes(content)
    return path


def read_model(url: str) -> bytes:
    try:
        return read_bytes(url)
    except FileNotFoundError:
        raise _absent(url) from None


def _absent(url: str) -> InputError:
    return InputError("there is no such model", where=url, remedy="Check the address in the recipe.")
