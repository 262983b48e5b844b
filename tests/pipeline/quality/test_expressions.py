"""Rules in one line, over columns."""

import pyarrow as pa
import pytest

from infra.errors import ConfigError
from pipeline.quality.config import QualityConfig, SourceRules, rules_for
from pipeline.quality.rules import Expression, Rule, check_attributes, first_failed
from pipeline.quality.select import Criteria, select

TABLE = pa.table(
    {
        "words": pa.array([10, 100, None]),
        "share": pa.array([0.5, 0.0, 0.25]),
        "language": pa.array(["en", None, "de"]),
    }
)


@pytest.mark.parametrize(
    ("expression", "failed"),
    [
        ("words >= 50", [True, False, False]),
        ("50 <= words < 100", [True, True, False]),
        ("words * share > 4", [False, True, False]),
        ("1 / share < 3", [False, False, True]),  # by zero: undefined
        ("language in ('en', 'fr')", [False, False, True]),
        ("language not in ['en']", [True, False, False]),
        ("not words > 50", [False, True, False]),
        ("words > 50 or share > 0.2", [False, False, False]),
        ("words > 50 and share > 0.3", [True, True, True]),  # the third: whatever its words, its share is too small
        ("-words < -50", [True, False, False]),
        ("language != 'en' and words > 5", [True, False, False]),
    ],
)
def test_it_fails_what_it_does_not_hold_of(expression: str, failed: list[bool]):
    assert Expression("mine", expression).fails(TABLE).tolist() == failed


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("words", "says nothing that holds or does not"),
        ("words >", "is no expression"),
        ("__import__('os').system('true') > 1", "is not known in an expression"),
        ("words.__class__ == 1", "is not known in an expression"),
        ("words ** 9 > 1", "is not known in an expression"),
        ("words > True", "is not known in an expression"),
        ("(lambda: 1)() > 0", "is not known in an expression"),
        ("[w for w in words] == 1", "is not known in an expression"),
        ("words in share", "in takes a list"),
        ("words and share", "says nothing that holds"),
        ("not words", "says nothing that holds"),
        ("(words > 1) > 0", "is not known in an expression"),
        ("words > " + "(" * 400 + "1" + ")" * 400, "is no expression"),
        ("words > 1" + " " * 1000, "longer than"),
    ],
)
def test_anything_else_is_refused(expression: str, sentence: str):
    with pytest.raises(ValueError, match=r"(?s).*") as error:
        Expression("mine", expression)
    assert sentence in str(error.value)


def test_unknown_attributes_are_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"looks at 'word', which no document has.*Did you mean 'words'\?"):
        check_attributes([Expression("mine", "word > 3")], TABLE.schema, "here")


def test_texts_are_not_compared_with_numbers():
    with pytest.raises(ConfigError, match="the rule 'mine' cannot be computed"):
        check_attributes([Expression("mine", "language > 3")], TABLE.schema, "here")


def test_the_ledger_tells_the_value_and_the_expression():
    unknown = pa.nulls(3, pa.float32())
    measured = TABLE.append_column("quality", unknown).append_column("language_score", unknown)
    from pipeline.document import DOCUMENT_SCHEMA

    rows = [
        {"id": bytes([row]) * 16, "text": "t", "source": "s", "origin": {"archive": "a"}, "url": f"u{row}"}
        for row in range(3)
    ]
    documents = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT_SCHEMA)
    entry = SourceRules.model_validate({"rules": [{"name": "long", "expression": "words >= 50"}]})
    (row,) = select(documents, measured, Criteria.of(entry, None)).fates.to_pylist()
    told = {name: row[name] for name in ("url", "rule", "score", "threshold", "detail")}
    assert told == {"url": "u0", "rule": "long", "score": 10, "threshold": 50, "detail": "words >= 50"}


def test_rules_of_the_whole_stage_come_after_those_of_the_source():
    own = {"name": "b", "expression": "words > 1"}
    everywhere = {"name": "a", "expression": "words > 2"}
    config = QualityConfig.model_validate(
        {"sources": [{"presets": ["wikipedia"], "rules": [own]}], "rules": [everywhere]}
    )
    assert [rule.name for rule in rules_for(config, "any").all_rules()] == ["wikipedia_words", "b", "a"]


def test_the_first_rule_that_fails_decides_whatever_its_form():
    rules = (Rule("short", "words", "at_least", 50), Expression("share", "share > 0.3"))
    assert first_failed(rules, TABLE).tolist() == [0, 1, 1]


def test_rules_that_are_not_given_leave_the_identity_as_it_was():
    from infra.config import identity

    assert "rules" not in identity(QualityConfig())
    assert "rules" in identity(QualityConfig.model_validate({"rules": [{"name": "a", "expression": "words > 1"}]}))
