"""Training: fastText on balanced passages, one thread, fixed seed: the same passages give the same bytes."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.classifier.config import ClassifierConfig
from pipeline.classifier.corpus import Passage
from pipeline.classifier.model import GOOD, ORDINARY, prepare
from pipeline.fasttext_model import PREFIX, one_line


def train(passages: Sequence[Passage], config: ClassifierConfig, scratch: Path, target: Path) -> None:
    """Write the model trained on these passages to ``target``."""
    import fasttext

    scratch.mkdir(parents=True, exist_ok=True)
    lines = scratch / "passages.txt"
    try:
        with lines.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
            for passage in passages:
                stream.write(f"{PREFIX}{GOOD if passage.good else ORDINARY} {one_line(prepare(passage.text))}")
        model = fasttext.train_supervised(
            str(lines),
            lr=config.learning_rate,
            dim=config.dimension,
            epoch=config.epochs,
            minCount=config.min_count,
            wordNgrams=config.word_ngrams,
            bucket=config.buckets,
            seed=config.seed,
            thread=1,  # more threads race on the same weights: the result would differ from run to run
            verbose=0,
        )
        model.save_model(str(target))
    finally:
        lines.unlink(missing_ok=True)
