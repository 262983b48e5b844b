"""Which entry holds for a source: by its profile and name, the first that fits."""

import pytest

from infra.errors import ConfigError
from pipeline.quality.config import QualityConfig, SourceRules, describe_selection, rules_for
from pipeline.quality.rules import Preset
from pipeline.redact.stage import Policy, RedactConfig, policy_for
from tests.support import profiles


def test_defaults_go_by_what_a_source_is_never_by_its_name() -> None:
    config = QualityConfig(profiles=profiles(web_code="books", crawl="web", flask="code"))
    assert rules_for(config, "crawl").languages == ("en",)
    assert rules_for(config, "flask").presets == (Preset.CODE,)
    assert not rules_for(config, "web_code").presets
    assert not rules_for(config, "web").presets, "a name says nothing"
    assert policy_for(RedactConfig(profiles=profiles(flask="code")), "flask").phone is Policy.OFF
    assert policy_for(RedactConfig(profiles=profiles(code="web")), "code").phone is Policy.MASK


def test_a_name_and_a_profile_must_both_fit() -> None:
    news = SourceRules(source="news*", profile="web", presets=(Preset.C4,))
    config = QualityConfig(sources=(news,), profiles=profiles(news_en="web", news_de="books"))
    assert rules_for(config, "news_en") is news
    with pytest.raises(
        ConfigError, match=r"covers the source 'news_de' \(profile: books\).*profile: web, source: 'news\*'"
    ):
        rules_for(config, "news_de")


def test_a_source_of_which_nothing_is_said_is_told_with_the_choices() -> None:
    (line,) = describe_selection(QualityConfig(), "rows")
    assert line.startswith("rows: no quality rule holds for it") and line.endswith(
        "give the source a profile (web, encyclopedia, code, books, chat, none)"
    )
    (line,) = describe_selection(QualityConfig(profiles=profiles(rows="none")), "rows")
    assert "profile (" not in line
    (line,) = describe_selection(QualityConfig(profiles=profiles(rows="web")), "rows")
    assert line == "rows: only documents in en are kept (quality.sources, entry profile: web)"
