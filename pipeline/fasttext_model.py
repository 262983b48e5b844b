"""fastText models: loading, and scoring in batches.

The package's Python ``predict`` breaks on NumPy 2 and is slow; the compiled call behind it takes a line and returns
``[(probability, label)]``. A line must end in a newline and hold no other: newlines inside a text become spaces (to
drop them would glue words together).
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import InputError
from infra.store.cache import cache_root
from infra.store.files import filesystem, is_local
from pipeline.sources.http import Patience, download, is_http

PREFIX = "__label__"
PATIENCE = Patience(tries=3)


def load_model(path: Path) -> Any:
    """The compiled model behind a file, kept for the worker's lifetime."""
    status = path.stat()
    return _load(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _load(path: Path, changed: int, size: int) -> Any:
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
        # A line without words still has fastText's end-of-line word, and so a label: the language of nothing.
        found = model.predict(one_line(text), 1, 0.0, "strict") if text and not text.isspace() else None
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
    """A model file as a local path: itself, or a copy where it lies on an object store or a web server."""
    url = _fetched(url)
    if is_local(url):
        path = Path(url.removeprefix("file://"))
        if not path.is_file():
            raise _absent(url)
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"{digest_of(url)}{Path(url).suffix}"
    fs, remote = filesystem(url)
    with fs.open(remote, "rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path


def digest_of(url: str) -> str:
    """SHA-256 of a file at any address."""
    fs, path = filesystem(_fetched(url))
    try:
        with fs.open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise _absent(url) from None


def _fetched(url: str) -> str:
    """The address itself; of a web server's file this machine's copy, fetched once."""
    if not is_http(url):
        return url
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rsplit('/', 1)[-1]}"
    return str(download(url, cache_root() / "models" / name, PATIENCE))


def _absent(url: str) -> InputError:
    return InputError("there is no such file", where=url, remedy="Check the address in the recipe.")
