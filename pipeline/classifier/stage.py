"""The classifier stage: from named sets of texts to ``data/quality.bin`` and the report that says how far to trust it.

sample   from every file of a set, the documents with the lowest ranks
train    joins them, takes out what both sides share, cuts and balances passages, trains, measures the model on
         documents held out, and writes report.json, the same as a page (report.html) and a model card (README.md)
"""

import json
from collections.abc import Iterable, Mapping

from infra.config import Json
from infra.errors import InputError
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.address import dataset_inputs
from infra.store.files import sha256_file
from pipeline.classifier import corpus, sources
from pipeline.classifier.config import ClassifierConfig, TextSet
from pipeline.classifier.figures import Scored, report
from pipeline.classifier.material import FEWEST_PASSAGES, training_material
from pipeline.classifier.model import MODEL_FILE, QualityModel
from pipeline.classifier.page import model_card, report_page
from pipeline.fasttext_model import digest_of, load_model
from pipeline.language import language_external, open_detector
from pipeline.profiles import source_of

REPORT_FILE = "data/report.json"
PAGE_FILE = "data/report.html"
CARD_FILE = "data/README.md"


def inputs(config: ClassifierConfig) -> Mapping[str, str]:
    return {"ingest": "ingest", **dataset_inputs([config.language.model])}


def external(config: ClassifierConfig) -> Json:
    """Digests of the files from outside, in the order in which the sets name them."""
    files: list[Json] = [digest_of(texts.file) for texts in (*config.positives, *config.negatives) if texts.file]
    return {"files": files, **language_external(config.language)}


def sample_units(context: StageContext) -> Iterable[Unit]:
    config: ClassifierConfig = context.config
    for good, side in ((True, config.positives), (False, config.negatives)):
        for texts in side:
            if texts.file:
                payload: dict[str, Json] = {"good": good, "texts": texts.model_dump(mode="json")}
                yield Unit(unit_id(payload), payload, files=(texts.file,))
                continue
            found = [
                file
                for file in context.inputs["ingest"].files(suffix=".parquet")
                if config.covers(texts, source_of(file.path))
            ]
            if not found:
                raise InputError(
                    f"the classifier wants documents of {texts.described}, and ingest has none",
                    where=context.inputs["ingest"].root,
                    remedy="Name other positives or negatives, or add such a source.",
                )
            for file in found:
                payload = {"good": good, "path": file.path}
                yield unit_of_files(unit_id(payload, file.digest), payload, [file], counted=False)


def sample_process(unit: Unit, context: UnitContext) -> Counts:
    config: ClassifierConfig = context.config
    good = bool(unit.payload["good"])
    if "texts" in unit.payload:
        found = sources.texts_of_file(TextSet.model_validate(unit.payload["texts"]), good, config.seed)
    else:
        found = sources.documents(context.inputs["ingest"].url(str(unit.payload["path"])), good, config.seed)
    detector = open_detector(config.language, context.inputs, context.scratch)
    chosen = sources.with_languages(sources.smallest(found, config.documents), detector)
    with context.intermediate(f"{unit.id}.parquet") as target:
        sources.write_samples(chosen, target)
    return Counts()


def train_units(context: StageContext) -> Iterable[Unit]:
    yield Unit(unit_id("train"), {"samples": list(context.step_files("sample"))})


def train_process(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.classifier.train import train
    from pipeline.classifier.tune import tuned

    config: ClassifierConfig = context.config
    addresses = [str(address) for address in unit.payload["samples"]]  # type: ignore[union-attr]
    samples, overlap = corpus.without_overlap(
        sample
        for good in (True, False)
        for sample in sources.smallest(
            (sample for address in addresses for sample in sources.read_samples(address) if sample.good == good),
            config.documents,
        )
    )
    testing = [sample for sample in samples if corpus.held_out(sample, config.held_out)]
    training = [sample for sample in samples if not corpus.held_out(sample, config.held_out)]
    material = training_material(training, config)
    passages = material.passages
    if len(passages) < FEWEST_PASSAGES:
        raise InputError(
            f"only {len(passages)} passages are left to train the quality classifier on",
            remedy="Give larger sets of positives and negatives, or shorter passage_words.",
        )
    tuning_auc = None
    if config.autotune:
        config, tuning_auc = tuned(training, config, context.scratch)
    with context.output(MODEL_FILE) as target:
        train(passages, config, context.scratch, target)
        digest = sha256_file(target)
        scores = QualityModel(load_model(target)).score([sample.text for sample in testing])
    figures = {
        "model_sha256": digest,
        "settings": {
            "epochs": config.epochs,
            "learning_rate": config.learning_rate,
            "word_ngrams": config.word_ngrams,
            "tuning_auc": tuning_auc,
        },
        "material": {
            "good_documents": sum(sample.good for sample in training),
            "ordinary_documents": sum(not sample.good for sample in training),
            "passages_each_side": len(passages) // 2,
            "taken_out_as_overlap": overlap,
            "negatives_sorted_by_rules": material.by_rules,
        },
        **report(
            [Scored(sample, float(score)) for sample, score in zip(testing, scores, strict=True)],
            config.keep_fraction,
            config.seed,
        ),
    }
    with context.output(REPORT_FILE) as target:
        target.write_text(json.dumps(figures, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    with context.output(PAGE_FILE, digested=False) as target:  # a drawing is no reason for another model
        target.write_text(report_page(figures), encoding="utf-8")
    with context.output(CARD_FILE) as target:
        target.write_text(model_card(figures, config, context.inputs["ingest"].digest), encoding="utf-8")
    return Counts()


def finalize(context: StageContext) -> None:
    from infra.store.files import read_json

    figures = read_json(f"{context.dataset_root}/{REPORT_FILE}")
    context.stats.update({key: figures[key] for key in ("auc", "auc_95", "calibration_error", "material")})


STAGE = ShardStage(
    name="classifier",
    code_version=5,
    config=ClassifierConfig,
    reference="pipeline.classifier:STAGE",
    inputs=inputs,
    reads="ingest",
    steps=(Step("sample", sample_units, sample_process), Step("train", train_units, train_process)),
    finalize=finalize,
    external=external,
    description="Train the quality classifier on good and ordinary text.",
)
