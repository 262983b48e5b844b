"""From documents of both sides to the passages that the classifier is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.classifier.config import ClassifierConfig
from pipeline.classifier.corpus import Passage, Sample, balanced, half_and_half, passages
from pipeline.quality.rules import Preset, first_failed, rules_of

FEWEST_PASSAGES = 20
BATCH = 512


@dataclass(frozen=True)
class TrainingPassages:
    """Training passages, and how the ordinary documents were used."""

    passages: list[Passage]
    by_rules: bool
    """Whether the ordinary documents were sorted by the rules (else all of them are the bad side)."""


def training_material(samples: Sequence[Sample], config: ClassifierConfig) -> TrainingPassages:
    """Cut, sort by the rules, and balance."""
    good = _cut([sample for sample in samples if sample.good], config)
    ordinary = [sample for sample in samples if not sample.good]
    if config.rules:
        fine = passes_rules(ordinary, config.rules)
        failing = _cut([sample for sample, passed in zip(ordinary, fine, strict=True) if not passed], config)
        passing = _cut([sample for sample, passed in zip(ordinary, fine, strict=True) if passed], config)
        chosen = balanced([*half_and_half(good, [replace(item, good=True) for item in passing]), *failing],
                          config.passage_words)  # fmt: skip
        if len(chosen) >= FEWEST_PASSAGES:
            return TrainingPassages(chosen, by_rules=True)
    return TrainingPassages(balanced([*good, *_cut(ordinary, config)], config.passage_words), by_rules=False)


def passes_rules(samples: Sequence[Sample], presets: Sequence[Preset]) -> NDArray[np.bool_]:
    """Which documents pass every rule of these presets."""
    from pipeline.quality.measures import Batch, as_arrow, measure

    rules = rules_of(presets)
    verdicts = [np.zeros(0, np.bool_)]
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        columns = measure(
            Batch([sample.text for sample in part], [sample.language for sample in part], [None] * len(part))
        )
        attributes = pa.table({name: as_arrow(column) for name, column in columns.items()})
        verdicts.append(first_failed(rules, attributes) == len(rules))
    return np.concatenate(verdicts)


def _cut(samples: Sequence[Sample], config: ClassifierConfig) -> list[Passage]:
    return [
        passage
        for sample in samples
        for passage in passages(sample, config.passage_words, config.passages_per_document)
    ]
