"""datatrove in its own environment: ``peer_datatrove.py ARCHIVES WORK LANGUAGE_MODEL LANGUAGES GOLD``.

The pipeline of its FineWeb example without the URL lists: trafilatura, language, Gopher, C4 without the rule on line ends,
FineWeb; two workers over the same files. Prints one JSON line. With GOLD (a file of URLs) only the extraction runs, and
the texts of those pages are printed.
"""

import gzip
import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LambdaFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

WORKERS = 2


def main(archives: str, work: str, model: str, languages: str, gold: str) -> None:
    files = len(list(Path(archives).glob("*.warc.gz")))
    reader = WarcReader(archives, glob_pattern="*.warc.gz", default_metadata={})
    if gold:
        wanted = frozenset(json.loads(Path(gold).read_text()))
        steps = [
            LambdaFilter(lambda page: page.metadata["url"] in wanted),
            Trafilatura(favour_precision=True, timeout=30),
        ]
    else:
        language = [_language_filter(languages.split(","), model)] if languages else []
        steps = [
            Trafilatura(favour_precision=True, timeout=30),
            *language,
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
        ]
    started = time.perf_counter()
    pipeline = [reader, *steps, JsonlWriter(f"{work}/out")]
    LocalPipelineExecutor(pipeline, tasks=files, workers=WORKERS, logging_dir=f"{work}/logs").run()
    seconds = time.perf_counter() - started
    rows = [row for path in sorted(Path(work, "out").glob("*.jsonl.gz")) for row in _rows(path)]
    answer = {"seconds": seconds, "documents": len(rows), "kept": [row["metadata"]["url"] for row in rows]}
    if gold:
        answer["texts"] = {row["metadata"]["url"]: row["text"] for row in rows}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _language_filter(languages: list, model: str) -> LanguageFilter:
    """With a model file that is here: it is fetched from the network otherwise."""
    step = LanguageFilter(languages=languages)
    step.model.MODEL_URL = model
    return step


def _rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main(*sys.argv[1:6])
