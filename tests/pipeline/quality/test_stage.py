"""The selection stage: who is kept, what the ledger says of the others, and that nothing else decides."""

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from infra.errors import ConfigError, InputError
from infra.fingerprint import fingerprint_payload
from pipeline.attributes import STAGE as ATTRIBUTES
from pipeline.quality import STAGE
from pipeline.quality.config import QualityConfig, SourceRules
from pipeline.quality.rules import PRESETS, Preset, rules_of
from tests.pipeline.quality.corpus import ARTICLE, CODE_PAGE, SHORT, SHOUTING, quality_inputs
from tests.support import PROFILES, adopt_dataset, run_shard_stage

WEB = {
    "web": [
        (ARTICLE, "en", 0.9),
        (SHORT, "en", 0.8),
        (SHOUTING, "en", 0.7),
        (ARTICLE.replace("mill", "windmill"), "de", 0.6),
        (CODE_PAGE, "en", 0.5),
    ],
    "wikipedia": [(ARTICLE + " Again.", "fr", 0.4), (SHORT + "!", "fr", 0.3)],
    "code": [("def mill():\n    return 1\n", "", 0.2)],
}


def rows(dataset, folder):
    return [row for file in dataset.files(folder) for row in pq.read_table(dataset.local(file.path)).to_pylist()]


def number(row):
    return row["url"].removeprefix("https://").replace(".example/", " ")


def test_first_failed_rule_is_on_record_with_score_and_threshold(tmp_path):
    found = run_shard_stage(
        STAGE, QualityConfig(profiles=PROFILES), quality_inputs(tmp_path / "in", WEB), tmp_path / "out"
    )
    fates = {number(row): row for row in rows(found, "ledger/")}
    assert {name: row["rule"] for name, row in fates.items()} == {
        "web 1": "gopher_words_min",
        "web 2": "gopher_duplicate_lines",
        "web 3": "language",
        "wikipedia 1": "wikipedia_words",
    }
    assert (fates["web 1"]["score"], fates["web 1"]["threshold"]) == (4, 50)
    assert fates["web 2"]["score"] == pytest.approx(29 / 30)
    assert fates["web 3"]["detail"] == "de"
    assert fates["web 3"]["threshold"] is None
    assert all(row["stage"] == "quality" and row["verdict"] == "dropped" for row in fates.values())
    assert {number(row) for row in rows(found, "data/")} == {"web 0", "web 4", "wikipedia 0", "code 0"}, (
        "a page that shows code is kept"
    )
    counts = found.manifest.counts
    assert (counts.incoming, counts.kept, sum(counts.dropped.values())) == (8, 4, 4)


def test_kept_documents_carry_language_and_score(tmp_path):
    found = run_shard_stage(
        STAGE, QualityConfig(profiles=PROFILES), quality_inputs(tmp_path / "in", WEB), tmp_path / "out"
    )
    kept = {number(row): row for row in rows(found, "data/")}
    assert kept["wikipedia 0"]["language"] == "fr"
    assert kept["web 0"]["quality"] == pytest.approx(0.9)
    assert kept["web 0"]["text"] == ARTICLE


def test_same_bytes_whatever_the_order_of_units(tmp_path):
    inputs = quality_inputs(tmp_path / "in", WEB)
    config = QualityConfig(sources=(SourceRules(keep_fraction=0.5),))
    forward = run_shard_stage(STAGE, config, inputs, tmp_path / "a")
    backward = run_shard_stage(STAGE, config, inputs, tmp_path / "b", reverse=True)
    assert forward.digest == backward.digest


def test_keep_fraction_is_a_quantile_of_what_passes_the_rules_over_all_files(tmp_path):
    texts = {"web": [(f"{ARTICLE} It is number {n}.", "en", n / 100) for n in range(100)] + [(SHORT, "en", 1.0)] * 50}
    inputs = quality_inputs(tmp_path / "in", texts, files=4)
    entry = SourceRules(languages=("en",), presets=(Preset.GOPHER_QUALITY,), keep_fraction=0.1)
    found = run_shard_stage(STAGE, QualityConfig(sources=(entry,)), inputs, tmp_path / "out")
    assert found.manifest.counts.dropped == {"classifier": 90, "gopher_words_min": 50}
    assert min(row["quality"] for row in rows(found, "data/")) == pytest.approx(0.9)
    assert found.manifest.stats["classifier_thresholds"]["web"] == pytest.approx(0.9, rel=1e-3)


def test_rules_can_be_left_out_and_thresholds_changed(tmp_path):
    entry = SourceRules(
        presets=(Preset.C4_OPEN_LINES, Preset.GOPHER_QUALITY),
        without=("c4_curly_brackets", "c4_sentences_open_lines"),
        thresholds={"gopher_words_min": 4},
    )
    found = run_shard_stage(
        STAGE, QualityConfig(sources=(entry,)), quality_inputs(tmp_path / "in", {"web": WEB["web"]}), tmp_path / "out"
    )
    assert {number(row) for row in rows(found, "data/")} == {"web 0", "web 4"}
    assert {number(row): row["rule"] for row in rows(found, "ledger/")} == {
        "web 1": "gopher_stop_words",
        "web 2": "gopher_stop_words",
        "web 3": "gopher_stop_words",  # German text would have passed; this one only claims to be German
    }


def test_changing_a_threshold_leaves_the_attributes_alone():
    def payload(stage, config):
        return fingerprint_payload(stage, config, dict.fromkeys(stage.inputs(config), "0" * 64))

    changed = QualityConfig(sources=(SourceRules(thresholds={"code_letters": 0.1}, presets=(Preset.CODE,)),))
    assert payload(STAGE, QualityConfig(profiles=PROFILES)) != payload(STAGE, changed)
    assert payload(ATTRIBUTES, ATTRIBUTES.config()) == payload(ATTRIBUTES, ATTRIBUTES.config())
    assert "quality" not in STAGE.inputs(changed)


def test_a_rule_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ValidationError, match=r"no rule 'c4_words' in the presets wikipedia.*wikipedia_words"):
        SourceRules(presets=(Preset.WIKIPEDIA,), without=("c4_words",))
    with pytest.raises(ValidationError, match="gopher_quality"):
        SourceRules(presets=("gopher",))


def test_a_source_without_rules_is_refused(tmp_path):
    config = QualityConfig(sources=(SourceRules(source="web"),))
    with pytest.raises(ConfigError, match="source 'wikipedia'"):
        run_shard_stage(STAGE, config, quality_inputs(tmp_path / "in", WEB), tmp_path / "out")


def test_documents_that_could_not_be_measured_are_failed_not_lost(tmp_path):
    inputs = quality_inputs(tmp_path / "in", {"web": [(ARTICLE, "en", 0.5), (SHORT, "en", 0.5)]})
    lost, *left = inputs["attributes"].files()
    inputs["attributes"] = adopt_dataset(tmp_path / "in" / "attributes", "attributes", list(left))
    found = run_shard_stage(STAGE, QualityConfig(profiles=PROFILES), inputs, tmp_path / "out")
    counts = found.manifest.counts
    assert (counts.incoming, counts.failed) == (2, 1)
    (fate,) = [row for row in rows(found, "ledger/") if row["verdict"] == "failed"]
    assert fate["rule"] == "no_attributes"
    assert f"ledger/{lost.path.removeprefix('data/')}" in {file.path for file in found.files("ledger/")}


def test_attributes_of_other_documents_are_refused(tmp_path):
    inputs = quality_inputs(tmp_path / "in", {"web": [(ARTICLE, "en", 0.5), (SHORT, "en", 0.5)]})
    other = quality_inputs(tmp_path / "other", {"web": [(SHORT, "en", 0.5)] + [(ARTICLE, "en", 0.5)] * 2})
    with pytest.raises(InputError, match="do not have the same rows"):
        run_shard_stage(
            STAGE, QualityConfig(profiles=PROFILES), {**inputs, "attributes": other["attributes"]}, tmp_path / "out"
        )


def test_presets_hold_the_published_values():
    def values(*presets):
        return {rule.name: rule.threshold for rule in rules_of(presets)}

    quality = values(Preset.GOPHER_QUALITY)
    assert (quality["gopher_words_min"], quality["gopher_words_max"]) == (50, 100_000)
    assert (quality["gopher_word_length_min"], quality["gopher_word_length_max"]) == (3, 10)
    repetition = values(Preset.GOPHER_REPETITION)
    assert [repetition[f"gopher_top_{n}gram_characters"] for n in (2, 3, 4)] == [0.20, 0.18, 0.16]
    duplicates = [repetition[f"gopher_duplicate_{n}gram_characters"] for n in (5, 6, 7, 8, 9, 10)]
    assert duplicates == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert values(Preset.FINEWEB)["fineweb_duplicate_line_characters"] == 0.01
    assert values(Preset.FINEWEB_PAPER)["fineweb_duplicate_line_characters"] == 0.1
    assert "c4_sentences" not in values(Preset.C4_OPEN_LINES)


def test_no_two_rules_of_all_presets_share_a_name_with_different_meaning():
    meanings = {}
    for name in Preset:
        for rule in PRESETS[name]:
            meaning = (rule.attribute, rule.bound)
            assert meanings.setdefault(rule.name, meaning) == meaning


def test_a_language_that_falls_to_one_rule_whole_is_told(tmp_path):
    pages = [(SHOUTING, "th", 0.5)] * 24 + [(ARTICLE, "en", 0.5)] * 2 + [(SHORT, "fi", 0.5)] * 19
    config = QualityConfig(sources=(SourceRules(presets=(Preset.GOPHER_REPETITION, Preset.GOPHER_QUALITY)),))
    found = run_shard_stage(STAGE, config, quality_inputs(tmp_path / "in", {"web": pages}), tmp_path / "out")
    assert [sentence.split(",")[0] for sentence in found.manifest.warnings] == [
        "web: all 24 documents in th fell to rule gopher_duplicate_lines"
    ]


def test_a_language_that_was_not_chosen_or_is_kept_in_part_is_no_news(tmp_path):
    pages = [(ARTICLE, "de", 0.5)] * 30 + [(ARTICLE, "en", 0.5)] + [(SHORT, "en", 0.5)] * 40
    found = run_shard_stage(
        STAGE, QualityConfig(profiles=PROFILES), quality_inputs(tmp_path / "in", {"web": pages}), tmp_path / "out"
    )
    assert found.manifest.counts.dropped == {"gopher_words_min": 40, "language": 30}
    assert found.manifest.warnings == []
