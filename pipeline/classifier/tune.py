"""Choosing fastText's settings: a small fixed grid, judged on training documents set apart.

fastText has an autotuner of its own, but it searches until a clock runs out: another machine finds another model. A
grid gives the same settings everywhere.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from pipeline.classifier.config import ClassifierConfig
from pipeline.classifier.corpus import Sample, rank_of
from pipeline.classifier.figures import auc
from pipeline.classifier.material import training_material
from pipeline.classifier.model import QualityModel
from pipeline.classifier.train import train
from pipeline.fasttext_model import load_model

EPOCHS = (5, 10, 20)
LEARNING_RATES = (0.1, 0.3)
WORD_NGRAMS = (1, 2)
JUDGES = 5
"""One document in so many judges the settings."""


def tuned(samples: Sequence[Sample], config: ClassifierConfig, scratch: Path) -> tuple[ClassifierConfig, float | None]:
    """The settings with the highest AUC, and that AUC; the given ones where there is too little to judge by."""
    judges = [sample for sample in samples if rank_of(1, sample.id) % JUDGES == 0]
    learners = [sample for sample in samples if rank_of(1, sample.id) % JUDGES != 0]
    learning, judging = training_material(learners, config).passages, training_material(judges, config).passages
    good = np.array([passage.good for passage in judging], np.bool_)
    if not learning or good.all() or not good.any():
        return config, None
    best, best_auc = config, -1.0
    for epochs, learning_rate, word_ngrams in product(EPOCHS, LEARNING_RATES, WORD_NGRAMS):
        candidate = config.model_copy(
            update={"epochs": epochs, "learning_rate": learning_rate, "word_ngrams": word_ngrams}
        )
        model = scratch / f"tune-{epochs}-{learning_rate}-{word_ngrams}.bin"
        try:
            train(learning, candidate, scratch, model)
            found = auc(QualityModel(load_model(model)).score([passage.text for passage in judging]), good)
        finally:
            model.unlink(missing_ok=True)
        if found > best_auc:  # of equals the first: the cheapest
            best, best_auc = candidate, found
    return best, best_auc
