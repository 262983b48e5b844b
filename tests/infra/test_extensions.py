"""Code of other packages: found, refused with a sentence, and part of the fingerprint."""

from pathlib import Path

import pytest

from infra import extensions
from infra.config import Config
from infra.errors import ConfigError
from infra.extensions import code_of, load, named_code, refuse_code
from infra.fingerprint import describe_change, fingerprint_payload
from infra.stage import ShardStage


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A package that nobody else imports, with a name of its own for each test."""
    folder = tmp_path / f"outside_{request.node.name.split('[')[0]}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "stage.py").write_text(
        "from infra.stage import ShardStage\nfrom infra.config import Config\nfrom . import words\n"
        f"STAGE = ShardStage('mine', 1, Config, '{folder.name}.stage:STAGE', ())\nCOUNT = 3\n"
    )
    (folder / "words.py").write_text("LIMIT = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_an_object_of_the_right_kind_is_taken(package: Path):
    assert load(f"{package.name}.stage:STAGE", "use", ShardStage).name == "mine"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nowhere.stage:STAGE", "the package 'nowhere' is not installed here"),
        ("{}.steps:STAGE", "has no module"),
        ("{}.stage:STAEG", "Did you mean 'STAGE'?"),
        ("{}.stage:COUNT", "is a int, and use takes a ShardStage"),
        ("os:system", "is a builtin_function_or_method, and use takes a ShardStage"),
        ("STAGE", "is no dotted path"),
        ("{}.stage:ShardStage", "is the class ShardStage itself, and use takes a ShardStage"),
        ("{}.stage:Config", "is the class Config, and use takes a ShardStage"),
        ("{}.stage.py:STAGE", "A module is named without .py: outside_"),
        ("./{}/stage.py:STAGE", "is no dotted path"),
    ],
)
def test_what_is_missing_or_another_thing_is_one_sentence(package: Path, given: str, sentence: str):
    with pytest.raises(ConfigError) as error:
        load(given.format(package.name), "use", ShardStage)
    assert sentence in str(error.value)


def test_a_module_that_fails_to_import_says_why(package: Path):
    (package / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        load(f"{package.name}.broken:STAGE", "use", ShardStage)


def test_a_module_that_ends_the_process_says_so_instead(package: Path):
    (package / "script.py").write_text("raise SystemExit('usage: script FILE')\n")
    with pytest.raises(ConfigError, match="cannot be imported: SystemExit: usage: script FILE"):
        load(f"{package.name}.script:STAGE", "use", ShardStage)


def test_what_installed_packages_offer(package: Path, monkeypatch: pytest.MonkeyPatch):
    """Under one name twice, and something that is no path."""
    for name, value in (("one", f"{package.name}.stage:STAGE"), ("two", "elsewhere.stage:STAGE")):
        info = package.parent / f"{package.name}_{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.name}_{name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[headwater.stages]\nshared = {value}\n{name} = {package.name}\n")
    monkeypatch.setattr(extensions, "_entry_points", extensions._entry_points.__wrapped__)
    with pytest.raises(
        ConfigError, match=r"several installed packages offer 'shared': elsewhere.stage:STAGE, outside_"
    ):
        load("shared", "use", ShardStage)
    with pytest.raises(ConfigError, match=r"offers 'one' as 'outside_\w+', which is no dotted path"):
        load("one", "use", ShardStage)


def test_references_are_found_under_the_keys_that_may_hold_them():
    recipe = {"sources": [{"kind": "warc", "address": "a.b:C"}, {"presets": ["c4", "my_pkg.rules:STRICT"]}]}
    assert list(named_code(recipe)) == [("presets", "my_pkg.rules:STRICT")]


def test_only_a_recipe_names_code():
    recipe = {"stages": {"quality": {"presets": ["my_pkg.rules:STRICT"]}}}
    refuse_code({"presets": ["my_pkg.rules:STRICT", "c4"], "model": "llama:latest"}, recipe, "here")
    with pytest.raises(ConfigError, match="my_pkg.rules:LOOSE is code"):
        refuse_code({"presets": ["my_pkg.rules:LOOSE"]}, recipe, "here")


def test_edited_code_of_another_package_is_another_fingerprint(package: Path):
    stage = load(f"{package.name}.stage:STAGE", "use", ShardStage)
    before = fingerprint_payload(stage, Config(), {})
    (package / "words.py").write_text("# a remark\nLIMIT = 3\n")
    assert fingerprint_payload(stage, Config(), {}) == before
    (package / "words.py").write_text("LIMIT = 4\n")
    after = fingerprint_payload(stage, Config(), {})
    assert describe_change(before, after) == f"code changed: {package.name}.stage:STAGE"


def test_our_own_stages_have_no_such_part():
    from pipeline.quality import STAGE

    assert code_of(STAGE, STAGE.config()) == {}
