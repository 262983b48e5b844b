"""``headwater bench dedup``: ours, datasketch, datatrove and rensa on the same corpora, in one run.

Three questions. How fast are signatures (one thread, 500-word documents)? How fast and how right is the whole way from
texts to survivors (two workers, a corpus with planted truth)? What grows when the corpus does (generated documents, eight
times as many; then one with a giant cluster and a huge document)?

A removal is right if the true Jaccard similarity of the removed document and its survivor reaches the threshold. Recall
is measured on planted pairs of known similarity, beside what the LSH curve promises for them. datasketch is one process
whatever the machine has, so ours is run with one worker too; datatrove gets two workers and a smaller corpus, on which
ours is run again.
"""

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.errors import ConfigError
from infra.store.dataset import Dataset
from pipeline.dedup import DedupConfig
from pipeline.dedup.minhash import catch_probability
from pipeline.dedup.report import catch_curve
from tests.benchmarks.dedup_parts import corpus, growth, peers
from tests.benchmarks.dedup_parts.corpus import Planted, Truth
from tests.benchmarks.dedup_parts.measure import Measured, measure

CONFIG = DedupConfig(url=False)
PARTS = ("signatures", "whole", "growth")
_MODULES = "tests.benchmarks.dedup_parts"
_DATASKETCH = {"default": "datasketch 2.0", "xxh32": "datasketch 2.0, XXH32"}


def run(
    seed: int = 1,
    size: int = 240_000,
    datatrove_size: int = 12_000,
    growth_documents: int = 250_000,
    giant: int = 200_000,
    huge_mb: int = 50,
    skip_peers: bool = False,
    only: str = "",
) -> dict[str, Any]:
    """``size`` documents with planted truth (``datatrove_size`` for the comparison with it); growth from
    ``growth_documents`` to eight times as many. ``only``: signatures, whole or growth."""
    if only not in ("", *PARTS):
        raise ConfigError(
            f"the benchmark has no part {only!r}", where="--only", remedy=f"Choose of {', '.join(PARTS)}."
        )
    found = Found({}, [])
    with tempfile.TemporaryDirectory(prefix="bench-dedup-") as name:
        folder = Path(name)
        _warm_up(folder / "warm-up", seed)
        if only in ("", "signatures"):
            _signatures(folder / "signatures", seed, found, skip_peers)
        if only in ("", "whole"):
            _whole(folder / "whole", seed, size, found)
            if not skip_peers:
                _datatrove(folder / "datatrove", seed, datatrove_size, found)
        if only in ("", "growth"):
            _growth(folder / "growth", seed, growth_documents, giant, huge_mb, found)
    return {"figures": found.figures, "rows": found.rows, "curve": catch_curve(CONFIG)}


@dataclass
class Found:
    """What the parts add to."""

    figures: dict[str, float]
    rows: list[dict[str, Any]]


def _warm_up(folder: Path, seed: int) -> None:
    """Compile the kernels, once on a machine: otherwise the first thing measured would pay for it. Both ways through the
    stage, since a small corpus is compared in one unit."""
    source = corpus.publish(corpus.make(400, seed), folder / "input")
    for number, blocks in enumerate((CONFIG, CONFIG.model_copy(update={"block_documents": 50}))):
        _ours(source, folder / str(number), blocks)


# ---- signatures -----------------------------------------------------------------------------------------------------


def _signatures(folder: Path, seed: int, found: Found, skip_peers: bool) -> None:
    planted = [
        Planted(f"p{i}", "original", text)
        for i, text in enumerate(corpus.passages(random.Random(seed), 2000, (500, 500)))
    ]
    _write_lines(planted, folder, files=1)
    rensa = "" if skip_peers else peers.rensa_folder()
    one_thread = {**os.environ, "RAYON_NUM_THREADS": "1"}
    times = measure([sys.executable, "-m", f"{_MODULES}.signatures", str(folder), rensa], one_thread).result
    _write_lines(planted[:500], folder / "few", files=1)
    ours = times["documents"] / times["ours"]
    found.figures["signatures_documents_per_second"] = ours
    found.rows.append(_row("signatures", "headwater", ours))
    for hashing, label in (("default", "ratio_signatures_datasketch"), ("xxh32", "ratio_signatures_datasketch_xxh32")):
        command = [sys.executable, "-m", f"{_MODULES}.peer_datasketch", "SIGNATURES", str(folder / "few"), hashing]
        slow = measure(command).result
        speed = slow["documents"] / slow["seconds"]
        found.figures[label] = ours / speed
        found.rows.append(_row("signatures", _DATASKETCH[hashing], speed))
    if rensa:
        found.figures["ratio_signatures_rensa"] = times["rensa"] / times["ours"]
        found.rows.append(_row("signatures", "rensa 0.5, our shingling", times["documents"] / times["rensa"]))


# ---- the whole stage, with truth ------------------------------------------------------------------------------------


def _whole(folder: Path, seed: int, size: int, found: Found) -> None:
    planted = corpus.make(size, seed)
    truth = Truth(planted)
    source = corpus.publish(planted, folder / "input")
    names = {corpus.identity(row.name): row.name for row in planted}
    figures, ours = found.figures, {}
    for workers in (1, 2):
        done = _ours(source, folder / f"ours-{workers}", workers=workers)
        ours[workers] = done.result["seconds"]
        quality = judge(planted, truth, _our_pairs(done.result["root"], names))
        found.rows.append(_row("whole", f"headwater, {workers} workers", size / ours[workers], done, quality))
    figures |= {"documents": size, "documents_per_second": size / ours[2], "peak_memory_mb": done.memory_mb}
    figures.update({key: quality[key] for key in ("precision", "recall", "recall_theory")})

    unverified = measure([sys.executable, "-m", f"{_MODULES}.unverified", source.root, CONFIG.model_dump_json()])
    quality = judge(planted, truth, unverified.result["pairs"])
    found.rows.append(_row("whole", "unverified: MinHash and connected components", None, None, quality))
    figures["precision_unverified"], figures["recall_unverified"] = quality["precision"], quality["recall"]

    for hashing, suffix in (("default", ""), ("xxh32", "_xxh32")):
        command = [sys.executable, "-m", f"{_MODULES}.peer_datasketch", "LSH", f"{source.root}/data"]
        lsh = measure([*command, str(folder / hashing), hashing])
        seconds = lsh.result["seconds"]
        quality = judge(planted, truth, lsh.result["pairs"])
        found.rows.append(_row("whole", f"{_DATASKETCH[hashing]}, one process", size / seconds, lsh, quality))
        figures[f"ratio_datasketch{suffix}"] = seconds / ours[2]
        figures[f"ratio_datasketch{suffix}_one_worker"] = seconds / ours[1]
    figures["precision_datasketch"] = quality["precision"]


def _datatrove(folder: Path, seed: int, size: int, found: Found) -> None:
    planted = corpus.make(size, seed)
    truth = Truth(planted)
    done = _ours(corpus.publish(planted, folder / "input"), folder / "ours")
    speed = size / done.result["seconds"]
    found.rows.append(_row(f"whole, {size:,} documents", "headwater, 2 workers", speed, done))
    _write_lines(planted, folder / "lines", files=8)
    script = Path(__file__).parent / "dedup_parts" / "peer_datatrove.py"
    peer = measure([peers.datatrove_python(), str(script), str(folder / "lines"), str(folder / "datatrove")])
    quality = judge(planted, truth, peer.result["pairs"])
    label = "datatrove 0.10.1, four stages, 2 workers"
    found.rows.append(_row(f"whole, {size:,} documents", label, size / peer.result["seconds"], peer, quality))
    found.figures["ratio_datatrove"] = speed * peer.result["seconds"] / size
    found.figures["precision_datatrove"] = quality["precision"]
    found.figures["recall_datatrove"] = quality["recall"]


def _ours(source: Dataset, workspace: Path, config: DedupConfig = CONFIG, workers: int = 2) -> Measured:
    command = [sys.executable, "-m", f"{_MODULES}.ours", source.root, str(workspace), config.model_dump_json()]
    return measure([*command, str(workers)])


def _our_pairs(root: str, names: Mapping[bytes, str]) -> list[tuple[str, str]]:
    dataset = Dataset.open(root)
    pairs = []
    for file in dataset.files("ledger/"):
        table = pq.read_table(dataset.local(file.path), columns=["id", "survivor_id"])
        pairs += [(names[row["id"]], names[row["survivor_id"]]) for row in table.to_pylist()]
    return pairs


def judge(planted: Sequence[Planted], truth: Truth, pairs: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision of all removals, recall on planted pairs, and the recall the curve promises for those pairs."""
    threshold, (bands, rows) = CONFIG.threshold, CONFIG.shape
    right = sum(truth.similarity(*pair) >= threshold for pair in pairs)
    removed = {pair[0] for pair in pairs}
    near = [(row.name, row.of, truth.similarity(row.name, row.of)) for row in planted if row.kind == "near"]
    duplicates = [(name, of, similarity) for name, of, similarity in near if similarity >= threshold]
    caught = sum(name in removed or of in removed for name, of, _ in duplicates)
    promised = sum(catch_probability(similarity, bands, rows) for *_, similarity in duplicates)
    number = max(1, len(duplicates))
    return {
        "removed": len(pairs),
        "precision": right / max(1, len(pairs)),
        "recall": caught / number,
        "recall_theory": promised / number,
    }


# ---- growth ---------------------------------------------------------------------------------------------------------


def _growth(folder: Path, seed: int, documents: int, giant: int, huge_mb: int, found: Found) -> None:
    figures = found.figures

    def one(label: str, number: int, **more: int) -> Measured:
        source = growth.publish(folder / "input", number, seed, **more)
        done = _ours(source, folder / "work")
        shutil.rmtree(folder)
        found.rows.append(_row(label, "headwater", number / done.result["seconds"], done))
        return done

    small = one(f"growth, {documents:,} documents", documents)
    large = one(f"growth, {8 * documents:,} documents", 8 * documents)
    figures["growth_documents"] = 8 * documents
    figures["growth_time_8n"] = large.result["seconds"] / small.result["seconds"]
    figures["growth_cpu_8n"] = large.cpu_seconds / small.cpu_seconds
    figures["growth_memory_8n"] = large.memory_mb / small.memory_mb
    figures["growth_peak_worker_mb"] = large.worker_mb
    if giant:
        number = max(documents, giant + documents // 5)
        odd = one(f"{giant:,} copies and {huge_mb} MB", number, copies=giant, huge_mb=huge_mb)
        figures["giant_time_per_document"] = odd.result["seconds"] / number / (small.result["seconds"] / documents)
        figures["giant_cpu_per_document"] = odd.cpu_seconds / number / (small.cpu_seconds / documents)
        figures["giant_peak_worker_mb"] = odd.worker_mb


# ---- shared ---------------------------------------------------------------------------------------------------------


def _write_lines(planted: Sequence[Planted], folder: Path, files: int) -> None:
    """The corpus as JSON lines, which every system reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        lines = (json.dumps({"id": row.name, "text": row.text}) for row in planted[i::files])
        (folder / f"{i:05}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(
    part: str,
    system: str,
    documents_per_second: float | None,
    measured: Measured | None = None,
    quality: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"part": part, "system": system, "documents_per_second": documents_per_second}
    if measured:
        row |= {"peak_memory_mb": measured.memory_mb, "peak_process_mb": measured.worker_mb}
        row |= {"seconds": measured.result["seconds"], "cpu_seconds": measured.cpu_seconds}
    return row | dict(quality or {})
