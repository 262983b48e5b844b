"""Headwater from Python: what the rooms offer, under one name.

    import headwater

    page = headwater.extract(html, url)              # one page's text
    measures = headwater.measure(table)              # what the quality rules look at, a row a document
    result = headwater.dedup(table)                  # result.kept, and each dropped row with its survivor
    tokenizer = headwater.train_tokenizer(texts)
    store = headwater.run("recipe.yaml")             # a whole recipe
    rows = store["shards"].torch()

Tables come in and go out by the Arrow interface: pyarrow, pandas, polars, Hugging Face datasets. Nothing is imported before
it is used. ``docs/python.md`` tells more.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.tables import Deduplicated as Deduplicated
    from headwater.tables import dedup as dedup
    from headwater.tables import extract as extract
    from headwater.tables import measure as measure
    from headwater.tables import tokenizer as tokenizer
    from headwater.tables import train_tokenizer as train_tokenizer
    from headwater.workspace import Published as Published
    from headwater.workspace import Workspace as Workspace
    from headwater.workspace import open_store as open_store
    from headwater.workspace import run as run
    from infra.errors import HeadwaterError as HeadwaterError
    from pipeline.extract.page import Extracted as Extracted
    from pipeline.extract.refusal import Refused as Refused
    from pipeline.tokenizer.model import Tokenizer as Tokenizer

_HOME = {
    **dict.fromkeys(
        ("Deduplicated", "dedup", "extract", "measure", "tokenizer", "train_tokenizer"), "headwater.tables"
    ),
    **dict.fromkeys(("Published", "Workspace", "open_store", "run"), "headwater.workspace"),
    "HeadwaterError": "infra.errors",
    "Extracted": "pipeline.extract.page",
    "Refused": "pipeline.extract.refusal",
    "Tokenizer": "pipeline.tokenizer.model",
}
__all__ = sorted(_HOME)


_ROOMS = ("infra", "pipeline", "training", "alignment", "flows")


def _claim_rooms() -> None:
    """Take our rooms from where this package lies: a ``pipeline.py`` beside a user's script stands before them on the path."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for room in _ROOMS:
        taken = sys.modules.get(room)
        spec = importlib.machinery.PathFinder.find_spec(room, [home])
        if spec is None or spec.loader is None:
            continue
        if taken is None:
            sys.modules[room] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        elif taken.__spec__ is not None and _place(taken.__spec__) != _place(spec):
            raise ImportError(
                f"{taken.__spec__.origin} is called as a package of headwater's own, {room!r}, and was imported before "
                "headwater: import headwater first, or give it another name"
            )


def _place(spec: importlib.machinery.ModuleSpec) -> str:
    return os.path.realpath(spec.origin or "")


_claim_rooms()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("headwater")
    if name not in _HOME:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
