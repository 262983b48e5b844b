"""The index: what later runs need to know of the documents this run kept.

``index/<file>.cards``, ``.signatures`` and ``.shingles`` hold the flat arrays (``pipeline.dedup.corpus``) of the kept
documents of one data file, and ``.own`` their keys of other packages' levels; ``index/format.json`` holds the format's version,
the parameters they were computed with, and the levels with their code. A later run reads them as if it had computed them itself,
without the texts. An index of another format, of other parameters or with keys of other code is refused: it would silently match
nothing.

A dataset's index covers its own documents only. What a run compares against is the list of datasets it is given, so
a snapshot is added or removed by naming it or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import ConfigError, InputError
from infra.store.address import beside
from infra.store.dataset import Dataset
from infra.store.files import read_json
from pipeline.dedup.config import NEAR, DedupConfig
from pipeline.dedup.own import code_of_levels

INDEX_FORMAT = 2
"""2: hashes of addresses are of another normal form (percent and IDN spelling, routes, sessions)."""
FORMAT_FILE = "index/format.json"


@dataclass(frozen=True)
class EarlierIndex:
    """An index that a run compares against."""

    root: str
    snapshot: str
    pieces: tuple[tuple[str, int], ...]
    levels: tuple[int, ...] = ()
    """The number here of each level whose keys it holds, in the order there; 0 for one that is not asked for here."""


def parameters(config: DedupConfig) -> dict[str, Any]:
    """What signatures and shingles depend on."""
    from pipeline.words import NORMALISATION_VERSION

    bands, rows = config.shape
    return {
        "normalisation": NORMALISATION_VERSION,
        "hash": "xxh32",
        "scheme": "affine32",
        "ngram": config.ngram,
        "permutations": bands * rows,
        "seed": config.seed,
        "max_characters": config.max_characters,
        "per_language_code": config.per_language_code,
    }


def format_record(config: DedupConfig) -> dict[str, Any]:
    levels = [{"level": level, "code": code} for level, code in code_of_levels(config).items()]
    return {"format": INDEX_FORMAT, "parameters": parameters(config), **({"levels": levels} if levels else {})}


def open_previous(config: DedupConfig, input_root: str) -> list[EarlierIndex]:
    """The indexes in force, in the configured order. Raises where one cannot be used."""
    if config.scope == "within":
        return []
    found = [_open(config, beside(address, input_root)) for address in config.previous]
    snapshots = [earlier.snapshot for earlier in found]
    if len(set(snapshots)) != len(snapshots):
        raise ConfigError("a dataset is named twice", where="dedup.previous", remedy="Name each snapshot once.")
    return found


def _open(config: DedupConfig, root: str) -> EarlierIndex:
    dataset = Dataset.open(root)
    try:
        record: Mapping[str, Any] = read_json(dataset.url(FORMAT_FILE))
    except FileNotFoundError:
        raise InputError(
            "the dataset has no dedup index",
            where=root,
            remedy="Build it with index: true, or leave it out of previous.",
        ) from None
    if record.get("format") != INDEX_FORMAT:
        raise InputError(
            f"the dedup index has format {record.get('format')}; this version reads {INDEX_FORMAT}",
            where=root,
            remedy="Rebuild that dataset with this version, or leave it out of previous.",
        )
    wanted, got = parameters(config), record.get("parameters", {})
    other = [
        f"{key} is {got.get(key)!r} there and {wanted[key]!r} here" for key in wanted if got.get(key) != wanted[key]
    ]
    if other:
        raise ConfigError(
            f"the dedup index was built with other parameters: {'; '.join(other)}",
            where=root,
            remedy="Use the same parameters, or rebuild that dataset with these.",
        )
    pieces = tuple(
        (file.path.removeprefix("index/").removesuffix(".cards"), file.rows or 0)
        for file in dataset.files("index/", ".cards")
    )
    levels = _numbers(config, record.get("levels", []), root)
    return EarlierIndex(root, f"{dataset.name}/{dataset.manifest.fingerprint}", pieces, levels)


def _numbers(config: DedupConfig, there: Sequence[Mapping[str, str]], root: str) -> tuple[int, ...]:
    here = code_of_levels(config)
    for level in there:
        if here.get(level["level"], level["code"]) != level["code"]:
            raise ConfigError(
                f"the dedup index holds keys by other code of the level {level['level']}",
                where=root,
                remedy="Rebuild that dataset with the level as it is now, or leave it out of previous.",
            )
    numbers = {level: number for number, level in enumerate(here, start=NEAR + 1)}
    return tuple(numbers.get(level["level"], 0) for level in there)


def without_keys(config: DedupConfig, input_root: str) -> list[str]:
    """A sentence for each earlier run whose documents take no part in a level."""
    return [
        f"the documents of {earlier.snapshot} take no part in the level {level}: that run did not have it"
        for earlier in open_previous(config, input_root)
        for number, level in enumerate(code_of_levels(config), start=NEAR + 1)
        if number not in earlier.levels
    ]
