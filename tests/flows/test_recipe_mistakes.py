"""What strangers write into a recipe: each mistake is one sentence, before anything runs, that names the mend."""

from pathlib import Path

import pytest

from flows.recipe import load_recipe
from infra.errors import ConfigError

SOURCE = "{name: mine, kind: jsonl, address: rows.jsonl, profile: none}"
INGEST = f"ingest: {{sources: [{SOURCE}]}}"
QUALITY = (
    f"stages: {{{INGEST}, attributes: {{language: {{model: ''}}}}, quality: {{sources: [{{}}], rules: [{{RULE}}]}}}}"
)


def mine(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"stages: {{ingest: {{sources: [{SOURCE.replace('address', 'adress')}]}}}}", "Did you mean 'address'?"),
        (f"stages: {{ingest: {{sources: [{SOURCE.replace('jsonl,', 'json,', 1)}]}}}}", "Did you mean 'jsonl'?"),
        (f"stages: {{ingest: {{sources: [{SOURCE.replace('kind: jsonl, ', '')}]}}}}", "does not say its kind: common_"),
        (f"stages: {{ingest: {{sources: {SOURCE}}}}}", "it should be a list (mine.yaml)"),
        (f"stages: {{ingest: {{sources: [{SOURCE}], extract: 3}}}}", "it should be a mapping of keys"),
        (f"stages: {{ingest: {{sources: [{SOURCE.replace('none', 'none, language: no')}]}}}}", "in quotes"),
        (f"stages: {{ingest: {{sources: [{SOURCE.replace('mine', '2024-01-01')}]}}}}", "Write it in quotes."),
        (f"stages: {{{INGEST}, redact: {{sources: [{{phone: off}}]}}}}", "write a word in quotes"),
        (f"stages: {{ingest: {{after: dedup, sources: [{SOURCE}]}}, dedup: {{}}}}", "'ingest' receives no documents"),
        (f"stages: {{{INGEST}, tokenizer: {{use: tokenizer/5f}}}}", "= 'tokenizer/5f' is no dataset"),
        (
            QUALITY.replace("RULE", "expression: words > 1"),
            "rules.0.name is missing (mine.yaml). Allowed keys: ex",
        ),
        (QUALITY.replace("RULE", "name: a, expression: words"), "words': 'words' says nothing that holds"),
        (
            QUALITY.replace("RULE", "name: a, expression: words > 1}, {name: a, expression: words > 2"),
            "two rules are called 'a'",
        ),
        (QUALITY.replace("RULE", "name: language, expression: words > 1"), "two rules are called 'language'"),
        (
            QUALITY.replace("RULE", "name: gopher_words_min, expression: words > 1").replace(
                "[{}]", "[{presets: [gopher_quality]}]"
            ),
            "two rules are called 'gopher_words_min'",
        ),
        ("stages: {pretrain: {seed: -1}}", "pretrain.seed = '-1': input should be greater than or equal to 0"),
        ("stages: {sft: {weights: [1.0e+9]}}", "sft.weights.0 = '1000000000.0': input should be less than"),
        (QUALITY.replace("[{}], rules: [{RULE}]", "[{presets: [gopher]}]"), "Did you mean 'gopher_quality'?"),
        (
            QUALITY.replace("[{}], rules: [{RULE}]", "[{presets: [gopher_quality], without: [gopher_word_min]}]"),
            "Did you mean 'gopher_words_min'?",
        ),
    ],
)
def test_a_mistake_is_told_with_its_mend(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe(mine(tmp_path, text))
    assert said in str(refused.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("name", ["../../../elsewhere", "two words", "ünï", "[a]", "a" * 129, ".hidden"])
def test_what_no_dataset_can_be_found_by_is_no_name_of_a_recipe(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a recipe"):
        load_recipe(mine(tmp_path, f"recipe: {name}\nstages: {{{INGEST}}}"))


def test_a_file_s_name_that_is_no_label_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "my recipe.yaml"
    path.write_text(f"stages: {{{INGEST}}}")
    with pytest.raises(ConfigError, match=r"'my recipe' cannot be the name of a recipe .* Say `recipe:`"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["base", "base.yaml"])
def test_what_is_extended_lies_beside_the_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.yaml").write_text(f"stages: {{{INGEST}, dedup: {{bands: 20}}}}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "base.yaml").write_text("stages: {dedup: {bands: 3}}")
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(mine(tmp_path, f"extends: {name}"))
    assert recipe.node("dedup").config.model_dump()["bands"] == 20


def test_an_override_may_be_written_as_mistakes_are_told(tmp_path: Path) -> None:
    recipe = load_recipe(mine(tmp_path, f"stages: {{{INGEST}, dedup: {{}}}}"), ["stages.dedup.bands=20"])
    assert recipe.node("dedup").config.model_dump()["bands"] == 20


@pytest.mark.parametrize(
    ("user", "refused"), [("me:s3cr3t", True), ("ghp_16C7e42F292c6912E7710c83", True), ("me", False), ("", False)]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(user: str, refused: bool, tmp_path: Path) -> None:
    address = f"https://{user}@host/path".replace("//@", "//")
    path = mine(tmp_path, f"stages: {{ingest: {{sources: [{SOURCE.replace('rows.jsonl', address)}]}}}}")
    if not refused:
        assert load_recipe(path).node("ingest").config.model_dump()["sources"][0]["address"] == address
        return
    with pytest.raises(ConfigError, match="it holds a password or token") as told:
        load_recipe(path)
    assert user not in str(told.value) and "https://…@host" in str(told.value)
