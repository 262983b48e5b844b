"""The floor: FastWARC and trafilatura with its own defaults, two processes: ``python -m … ARCHIVES GOLD``.

No rules, no store, no limits. With GOLD (a file of URLs) the texts of those pages are printed.
"""

import json
import logging
import multiprocessing
import sys
import time
from pathlib import Path

import trafilatura
from fastwarc.warc import ArchiveIterator, WarcRecordType

WORKERS = 2


def extract(job: tuple[str, list[str] | None]) -> tuple[int, dict[str, str]]:
    """Pages of one archive, and the texts of the wanted ones."""
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    path, wanted = job
    urls = set(wanted or ())
    pages = 0
    texts = {}
    for record in ArchiveIterator(path, record_types=WarcRecordType.response):
        url = record.headers["WARC-Target-URI"]
        if wanted is not None and url not in urls:
            continue
        pages += 1
        text = trafilatura.extract(record.reader.read()) or ""
        if wanted is not None:
            texts[url] = text
    return pages, texts


def main(archives: str, gold: str) -> None:
    wanted = json.loads(Path(gold).read_text()) if gold else None
    paths = [str(path) for path in sorted(Path(archives).glob("*.warc.gz"))]
    started = time.perf_counter()
    with multiprocessing.get_context("forkserver").Pool(WORKERS) as pool:
        results = pool.map(extract, [(path, wanted) for path in paths], chunksize=1)
    answer = {"seconds": time.perf_counter() - started, "pages": sum(pages for pages, _ in results)}
    texts = {url: text for _, found in results for url, text in found.items()}
    sys.stdout.write(json.dumps({**answer, "texts": texts}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
