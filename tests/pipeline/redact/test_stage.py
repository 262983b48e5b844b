"""The redact stage: masked texts, dropped documents, spans on record."""

import pyarrow.parquet as pq
import pytest

from infra.errors import ConfigError
from pipeline.redact import STAGE
from pipeline.redact.stage import Policy, RedactConfig, SourcePolicy, others, policy_for, redact
from tests.pipeline.corpus import document, publish_documents
from tests.support import PROFILES, run_shard_stage

TEXTS = {
    "web": ["Mail jane@firm.de and joe@firm.de.", "Nothing here.", "Card 4111 1111 1111 1111."],
    "code": ['KEY = "AKIAIOSFODNN7QW3RTYU"\nCALL = "+49 30 901820"\n'],
}


@pytest.fixture
def inputs(tmp_path):
    documents = [document(source, n, text) for source, texts in TEXTS.items() for n, text in enumerate(texts)]
    return {"decontaminate": publish_documents(tmp_path / "in", documents, "decontaminate")}


def rows(dataset, folder):
    found = []
    for file in dataset.files(folder):
        found += pq.read_table(dataset.local(file.path)).to_pylist()
    return found


def texts(dataset):
    return {row["url"]: row["text"] for row in rows(dataset, "data/")}


def test_texts_are_masked_and_spans_recorded(inputs, tmp_path):
    found = run_shard_stage(STAGE, RedactConfig(profiles=PROFILES), inputs, tmp_path / "out")
    assert texts(found) == {
        "https://web.example/0": "Mail <EMAIL> and <EMAIL>.",
        "https://web.example/1": "Nothing here.",
        "https://web.example/2": "Card <CREDIT_CARD>.",
        "https://code.example/0": 'KEY = "<SECRET>"\nCALL = "+49 30 901820"\n',
    }
    spans = rows(found, "spans/")
    assert sorted(span["kind"] for span in spans) == ["credit_card", "email", "email", "secret"]
    first = min((span for span in spans if span["kind"] == "email"), key=lambda span: span["start"])
    assert TEXTS["web"][0][first["start"] : first["end"]] == "jane@firm.de"
    assert set(spans[0]) == {"id", "kind", "start", "end"}  # never the text itself
    assert found.manifest.stats["masked"] == {"credit_card": 1, "email": 2, "secret": 1}
    assert found.manifest.counts.kept == 4


def test_a_kind_can_drop_its_documents(inputs, tmp_path):
    config = RedactConfig(sources=(SourcePolicy(credit_card=Policy.DROP, email=Policy.OFF, secret=Policy.OFF),))
    found = run_shard_stage(STAGE, config, inputs, tmp_path / "out")
    (fate,) = rows(found, "ledger/")
    assert (fate["url"], fate["rule"], fate["score"], fate["verdict"]) == (
        "https://web.example/2", "redact_credit_card", 1, "dropped",
    )  # fmt: skip
    assert texts(found)["https://web.example/0"] == TEXTS["web"][0]
    counts = found.manifest.counts
    assert (counts.incoming, counts.kept, counts.dropped) == (4, 3, {"redact_credit_card": 1})


def test_same_bytes_whatever_the_order(inputs, tmp_path):
    forward = run_shard_stage(STAGE, RedactConfig(profiles=PROFILES), inputs, tmp_path / "a")
    backward = run_shard_stage(STAGE, RedactConfig(profiles=PROFILES), inputs, tmp_path / "b", reverse=True)
    assert forward.digest == backward.digest


def test_nothing_is_left_to_redact(inputs, tmp_path):
    once = run_shard_stage(STAGE, RedactConfig(profiles=PROFILES), inputs, tmp_path / "a")
    twice = run_shard_stage(STAGE, RedactConfig(profiles=PROFILES), {"decontaminate": once}, tmp_path / "b")
    assert texts(once) == texts(twice)
    assert rows(twice, "spans/") == []


def test_a_source_without_a_policy_is_refused(inputs, tmp_path):
    with pytest.raises(ConfigError, match="source 'code'"):
        run_shard_stage(STAGE, RedactConfig(sources=(SourcePolicy(source="web"),)), inputs, tmp_path / "out")


def test_a_finder_of_another_package_masks_behind_ours(monkeypatch, tmp_path):
    package = tmp_path / "badge_finder.py"
    package.write_text(
        "import re\nfrom pipeline.redact.spans import OutsideFinder\n"
        "BADGE = OutsideFinder('badge', '<BADGE>', lambda text: (m.span() for m in re.finditer(r'B-\\d+', text)))\n"
        "EMAIL = OutsideFinder('email', '<MINE>', lambda text: iter(()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = RedactConfig(finders=("badge_finder:BADGE",))
    finders = others(config.finders)
    text = "Ask B-17 at jane.doe@acme-corp.com."
    assert redact(text, policy_for(config, "web"), finders)[0] == "Ask <BADGE> at <EMAIL>."
    assert redact(text, SourcePolicy(others=Policy.DROP), finders)[2] == "badge"
    assert redact(text, SourcePolicy(others=Policy.OFF), finders)[0] == "Ask B-17 at <EMAIL>."
    with pytest.raises(ValueError, match="needs a name of its own"):
        RedactConfig(finders=("badge_finder:EMAIL",))


def test_a_text_on_which_a_finder_of_another_package_breaks_costs_that_text(inputs, monkeypatch, tmp_path):
    (tmp_path / "brittle.py").write_text(
        "from pipeline.redact.spans import OutsideFinder\n"
        "BADGE = OutsideFinder('badge', '<BADGE>', lambda text: [] if 'jane' not in text else 1 / 0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = run_shard_stage(STAGE, RedactConfig(finders=("brittle:BADGE",)), inputs, tmp_path / "out")
    counts = found.manifest.counts
    assert (counts.incoming, counts.kept, counts.failed) == (4, 3, 1)
    (row,) = rows(found, "ledger/")
    assert (row["url"], row["rule"]) == ("https://web.example/0", "finder_error")
    assert row["detail"] == "badge: ZeroDivisionError: division by zero"
    assert "https://web.example/0" not in texts(found)
