"""Deduplication that is verified, explained, out of core and incremental.

Levels, each with its survivor on record: same URL and like text, same text, near duplicates. MinHash only nominates pairs;
the true shingles decide. The work is a chain of steps, each a map over independent units that fit a fixed memory budget:

    sign      every file        texts → cards, signatures, shingles; records by URL and by text
    urls      every key range   same address, texts alike → the better stays
    copies    every key range   same text → the better stays
    bands     every file        signatures → one key a band
    nominate  every key range   same key → (document, better document); by the keys of other packages' levels too (``own``)
    verify    every block       true similarity of the nominated pairs
    settle    every block       who stays; in rounds, until all is decided
    fates     every block       every dropped document's survivor
    spans     every file        lines, paragraphs or runs of words of what is left (off by default)
    repeats   every key range   what many documents share is cut from all but one
    select    every file        documents, ledger, index

A corpus of few blocks goes through the middle steps in one unit, one of some blocks through ``settle`` and ``fates``
(``small``).
Regrouping is done by files cut into partitions (``exchange``); documents are known by number (``corpus``).
"""

from infra.stage import ShardStage, Step
from pipeline.dedup.config import DOCUMENTS, DedupConfig
from pipeline.dedup.fates import fate_unit, fate_units
from pipeline.dedup.index import open_previous
from pipeline.dedup.levels import copy_unit, copy_units, url_unit, url_units
from pipeline.dedup.nominate import band_unit, band_units, nominate_unit, nominate_units
from pipeline.dedup.own import levels_of
from pipeline.dedup.repeats import repeat_unit, repeat_units, span_unit, span_units
from pipeline.dedup.report import finalize
from pipeline.dedup.select import select_unit, select_units
from pipeline.dedup.settle import settle_steps
from pipeline.dedup.sign import sign_unit, sign_units
from pipeline.dedup.small import compare_step, decide_step, is_large, is_small, unless
from pipeline.dedup.verify import verify_unit, verify_units


def _inputs(config: DedupConfig) -> dict[str, str]:
    return {DOCUMENTS: "quality"}


def _check(config: DedupConfig) -> None:
    levels_of(config)


def _check_earlier(config: DedupConfig, root: str) -> None:
    open_previous(config, root)


_NOMINATING = (
    Step("urls", url_units, url_unit),
    Step("copies", copy_units, copy_unit),
    Step("bands", band_units, band_unit),
    Step("nominate", nominate_units, nominate_unit),
    Step("verify", verify_units, verify_unit),
)
_DECIDING = (*settle_steps(), Step("fates", fate_units, fate_unit))
_CUTTING = (Step("spans", span_units, span_unit), Step("repeats", repeat_units, repeat_unit))

STAGE = ShardStage(
    name="dedup",
    code_version=3,
    config=DedupConfig,
    reference="pipeline.dedup.compiled:STAGE",
    inputs=_inputs,
    steps=(
        Step("sign", sign_units, sign_unit),
        compare_step((*_NOMINATING, *_DECIDING, *_CUTTING)),
        *(unless(is_small, step) for step in _NOMINATING),
        decide_step(_DECIDING),
        *(unless(lambda context: not is_large(context), step) for step in _DECIDING),
        *(unless(is_small, step) for step in _CUTTING),
        Step("select", select_units, select_unit),
    ),
    finalize=finalize,
    consumes=DOCUMENTS,
    ledgered=True,
    check=lambda config: _check(config),
    earlier=lambda config: config.previous if config.scope == "all" else (),
    check_earlier=lambda config, root, inputs: _check_earlier(config, root),
    description="Drops documents that repeat others: same URL, same text, or verified near duplicates.",
)

__all__ = ["STAGE", "DedupConfig"]
