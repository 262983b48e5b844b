"""Appending to an earlier version: its files become part of the new dataset as they are, and new shards follow them.

A version is a dataset of its own: it holds every row of the version it was appended to, in the same order and under the
same file names, then its own. Files of the earlier version are linked where the file system allows it and copied
elsewhere; nothing is tokenised or packed again. A source's held-out documents are appended too, as a further file
(``validation-web.0001.arrow``), so that they stay out of training.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, InputError
from infra.stage import Counts, Unit, UnitContext, unit_id
from infra.store.address import beside
from infra.store.dataset import Dataset
from infra.store.files import filesystem, is_local
from pipeline.shards.format import LINEAGE_SUFFIX, part_name, split_of

UNIGRAMS = "data/unigrams.npy"
"""How often each token stands in the training rows, of all versions together."""


@dataclass(frozen=True)
class EarlierShards:
    """The version that is appended to. Without one there is nothing in it."""

    dataset: Dataset | None

    @classmethod
    def open(cls, address: str, input_root: str) -> "EarlierShards":
        return cls(Dataset.open(beside(address, input_root)) if address else None)

    @property
    def stats(self) -> dict[str, Any]:
        return self.dataset.manifest.stats if self.dataset is not None else {}

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Raise ConfigError where new rows, which have these figures, would not fit the old ones."""
        if self.dataset is None:
            return
        if UNIGRAMS not in {output.path for output in self.dataset.manifest.outputs}:
            raise InputError(
                "the shards were written by an earlier version of the stage and cannot be appended to",
                where=self.dataset.root,
                remedy="Build them again with this version, or leave shards.append_to empty.",
            )
        other = [
            f"{key} is {str(self.stats[key])[:12]} there and {str(value)[:12]} here"
            for key, value in wanted.items()
            if self.stats[key] != value
        ]
        if len(self.stats["phases"]) > 1:
            other.append("they follow a curriculum, whose last rows must stay the last")
        if other:
            raise ConfigError(
                f"the shards cannot be appended to: {'; '.join(other)}",
                where=self.dataset.root,
                remedy="Keep the first version's seq_len and tokenizer (tokenizer: {use: …}), or leave append_to empty.",
            )

    def parts(self, split: str) -> int:
        """How many data files of a split there are."""
        if self.dataset is None:
            return 0
        return sum(split_of(Path(output.path).stem) == split for output in self.dataset.files("data/", ".arrow"))

    def next_name(self, split: str, number: int) -> str:
        """The name of the ``number``-th file of a split that is added to those there are."""
        return part_name(split, self.parts(split) + number)


def adopt_units(earlier: EarlierShards) -> Iterator[Unit]:
    """One unit for each shard with its lineage."""
    if earlier.dataset is None:
        return
    files = {output.path: output for output in earlier.dataset.files("data/")}
    for path, file in files.items():
        if path.endswith(".arrow"):
            lineage = files[f"{path.removesuffix('.arrow')}{LINEAGE_SUFFIX}"]
            payload: dict[str, Any] = {"path": path, "rows": file.rows, "lineage": lineage.path}
            yield Unit(unit_id("adopt", path, file.digest, lineage.digest), payload, file.bytes + lineage.bytes)


def adopt(earlier: EarlierShards, unit: Unit, context: UnitContext) -> Counts:
    """Take over a file; nothing in it is counted again."""
    assert earlier.dataset is not None
    payload: Mapping[str, Any] = unit.payload
    for path, rows in ((payload["path"], payload["rows"]), (payload["lineage"], None)):
        with context.output(path, rows=rows) as target:
            link_or_copy(earlier.dataset.url(path), target)
    return Counts()


def link_or_copy(url: str, target: Path) -> None:
    """A local file with the contents of ``url``: the same bytes on disk where that can be."""
    if not is_local(url):
        fs, path = filesystem(url)
        fs.get_file(path, str(target))
        return
    source = url.removeprefix("file://")
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
