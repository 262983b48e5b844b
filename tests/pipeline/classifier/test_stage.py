"""Training the classifier: deterministic, balanced, and honest about what it learnt."""

import json
import random

import pytest
from pydantic import ValidationError

from infra.errors import InputError
from pipeline.classifier import STAGE
from pipeline.classifier.config import ClassifierConfig, TextSet
from pipeline.classifier.model import MARK, QualityModel, prepare
from pipeline.classifier.tune import EPOCHS
from tests.pipeline.classifier.language import sample_dataset
from tests.pipeline.corpus import document, prose, publish_documents
from tests.support import PROFILES, run_shard_stage

NAVIGATION = """
    home cart login share tweet subscribe newsletter click here offer buy cheap price shipping sale deal
""".split()  # noqa: SIM905
SMALL = {"buckets": 2000, "dimension": 8, "passage_words": 50}


def article(rng):
    return prose(rng, rng.randint(60, 300))


def listing(rng):
    return " ".join(rng.choice(NAVIGATION) for _ in range(rng.randint(60, 300)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    rng = random.Random(1)
    documents = [document("wikipedia", n, article(rng)) for n in range(80)]
    documents += [document("web", n, listing(rng) if n % 2 else article(rng)) for n in range(160)]
    documents += [document("web", 1000 + n, documents[n]["text"].upper()) for n in range(5)]  # on both sides
    return {
        "ingest": publish_documents(tmp_path_factory.mktemp("ingest"), documents, "ingest"),
        "sample": sample_dataset(tmp_path_factory.mktemp("sample")),
    }


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    return run_shard_stage(
        STAGE, ClassifierConfig(profiles=PROFILES, **SMALL), inputs, tmp_path_factory.mktemp("trained")
    )


def report_of(dataset):
    return json.loads(dataset.local("data/report.json").read_text())


def test_same_sets_give_the_same_bytes(inputs, trained, tmp_path):
    again = run_shard_stage(STAGE, ClassifierConfig(profiles=PROFILES, **SMALL), inputs, tmp_path, reverse=True)
    assert again.digest == trained.digest


def test_it_tells_articles_from_listings(trained, tmp_path):
    rng = random.Random(2)
    model = QualityModel.open(trained, tmp_path)
    good = model.score([article(rng) for _ in range(20)])
    ordinary = model.score([listing(rng) for _ in range(20)])
    assert good.min() > ordinary.max()


def test_the_report_says_how_far_to_trust_it(trained):
    report = report_of(trained)
    assert report["auc"] > 0.6  # half of the web documents are articles like the others
    low, high = report["auc_95"]
    assert low <= report["auc"] <= high
    assert sum(band["documents"] for band in report["calibration"]) == sum(report["held_out"].values())
    assert len(report["nearest_threshold"]) == 20
    assert report["nearest_threshold"][0]["url"].startswith("https://web.example/")
    assert {group["group"] for group in report["by_domain"]} == {"web.example"}
    assert {group["group"] for group in report["by_language"]} <= {"en", "de"}
    assert trained.manifest.stats["auc"] == report["auc"]


def test_what_both_sides_share_is_taken_out(trained):
    assert report_of(trained)["material"]["taken_out_as_overlap"] >= 10


def test_ordinary_text_that_passes_the_rules_is_not_called_bad(inputs, trained, tmp_path):
    """Half of the web documents are articles: taken as they are, they would be on both sides."""
    assert report_of(trained)["material"]["negatives_sorted_by_rules"]
    plain = run_shard_stage(STAGE, ClassifierConfig(profiles=PROFILES, rules=(), **SMALL), inputs, tmp_path / "plain")
    rng = random.Random(5)
    texts = [article(rng) for _ in range(20)]
    sorted_scores = QualityModel.open(trained, tmp_path).score(texts)
    plain_scores = QualityModel.open(plain, tmp_path).score(texts)
    assert sorted_scores.mean() > plain_scores.mean()


@pytest.mark.timeout(120)
def test_autotune_finds_the_same_settings_every_time(inputs, tmp_path):
    config = ClassifierConfig(profiles=PROFILES, autotune=True, **SMALL)
    first = run_shard_stage(STAGE, config, inputs, tmp_path / "a")
    second = run_shard_stage(STAGE, config, inputs, tmp_path / "b", reverse=True)
    assert first.digest == second.digest
    settings = report_of(first)["settings"]
    assert settings["tuning_auc"] > 0.9
    assert settings["epochs"] in EPOCHS


def test_lines_are_part_of_what_it_sees():
    marks = prepare("Menu\n\nA sentence of some length, with an end.\n" + "x" * 500).split()
    assert [mark[1:] for mark in marks if mark.startswith(MARK)] == ["0_", "1.", "5_"]


def test_sets_from_files(inputs, tmp_path):
    rng = random.Random(3)
    lines = [{"body": listing(rng), "label": n % 2} for n in range(100)]
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    negatives = TextSet(file=str(file), column="body", where="label=0")
    config = ClassifierConfig(profiles=PROFILES, negatives=(negatives,), **SMALL)
    before = STAGE.external(config)
    trained = run_shard_stage(STAGE, config, inputs, tmp_path / "out")
    assert report_of(trained)["auc"] == 1
    material = report_of(trained)["material"]
    assert material["ordinary_documents"] + report_of(trained)["held_out"]["ordinary"] == 50
    file.write_text(file.read_text() + "\n")
    assert STAGE.external(config) != before


def test_bad_sets_are_refused_with_their_remedy(inputs, tmp_path):
    with pytest.raises(ValidationError, match="a profile, a source or a file"):
        TextSet(source="web", file="x.jsonl")
    with pytest.raises(InputError, match="documents of source `books`"):
        config = ClassifierConfig(profiles=PROFILES, positives=(TextSet(source="books"),))
        run_shard_stage(STAGE, config, inputs, tmp_path / "a")
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "fine"}\nnot json\n')
    config = ClassifierConfig(profiles=PROFILES, negatives=(TextSet(file=str(file)),))
    with pytest.raises(InputError, match=r"line 2 is not a JSON object"):
        run_shard_stage(STAGE, config, inputs, tmp_path / "b")
    file.write_text('{"body": "text"}\n')
    with pytest.raises(InputError, match="no text in column 'text'"):
        run_shard_stage(STAGE, config, inputs, tmp_path / "c")
    file.write_text('{"text": "only a few words"}\n')
    with pytest.raises(InputError, match="only 0 passages are left"):
        run_shard_stage(STAGE, config, inputs, tmp_path / "d")
