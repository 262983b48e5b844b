"""Recipes: what is accepted, what an override changes, and how a mistake is told."""

from pathlib import Path

import pytest

from flows.checks import notices
from flows.recipe import load_recipe, recipe_names
from flows.stages import STAGES, load_stage
from infra.config import identity
from infra.errors import ConfigError
from infra.fingerprint import fingerprint_payload
from infra.planning import Action, StageSelection, plan
from infra.store.store import Store


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_every_stage_can_be_loaded_and_its_defaults_have_an_identity(entry) -> None:
    stage = load_stage(entry.name)
    assert stage.name == entry.name
    assert identity(stage.config()) is not None


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description and recipe.nodes


def test_overrides_change_one_field_and_keep_the_rest() -> None:
    base, changed = load_recipe("demo"), load_recipe("demo", ["dedup.bands=20", "execution.workers=1"])
    assert changed.execution.workers == 1
    assert changed.node("dedup").config.model_dump()["bands"] == 20
    assert changed.node("quality").config == base.node("quality").config


QUALITY = "extends: demo\nstages: {{quality: {{sources: [{}]}}}}"
MIXTURE = "extends: demo\nstages: {{shards: {{mixture: [{{source: {}}}]}}}}"
REPETITION = "extends: demo\nstages: {{shards: {{repetition: [{{source: {}, score: {}, curve: [{}]}}]}}}}"
POSITIVES = "extends: demo\nstages: {{classifier: {{positives: [{{source: '{}'}}]}}}}"


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "stages: {dedup: {band: 3}}",
            r"unknown key stages\.dedup\.band \(.*mine\.yaml\)\. Did you mean 'bands'\? Allowed keys",
        ),
        ("stages: {dedupe: {}}", r"unknown key stages\.dedupe .*Allowed keys: .*dedup"),
        (
            "extends: demo\nstages: {pretrain: {ranks: 3, parallel: {engine: torch, context: 3}, model: {heads: 6, kv_heads: 3, "
            "hidden_size: 96}}, shards: {seq_len: 256}}",
            r"stages\.pretrain: context 3 does not cut sequences of 256 tokens .*mine\.yaml.* 1, 2, 4, 8",
        ),
        (
            "extends: smoke\nstages: {sft: {engine: torch, tensor: 2}}",
            r"stages\.sft: tensor 2 does not divide kv_heads 1; it may be 1 .*mine\.yaml",
        ),
        ("stage: {}", r"unknown key stage .*Allowed keys: description, execution, recipe, scale, stages"),
        ("stages: {dedup: {bands: many}}", r"stages\.dedup\.bands = 'many': input should be a valid integer"),
        (
            "execution: {on_drift: maybe}\nstages: {sample: {}}",
            r"on_drift = 'maybe': input should be 'warn', 'rerun' or 'fail'",
        ),
        (
            "stages: {ingest: {sources: [{name: a, kind: warc, address: x, split: y}]}}",
            r"stages\.ingest\.sources\.0: 'split' is no option of kind warc, but of hugging_face",
        ),
        (
            "stages: {ingest: {sources: [{name: a, kind: git, address: x, revison: y}]}}",
            r"unknown key stages\.ingest\.sources\.0\.revison .*Did you mean 'revision'\? Allowed keys: .*max_repository",
        ),
        (
            "stages: {ingest: {sources: [{name: a, kind: warc, address: x, profile: y}]}}",
            r"stages\.ingest\.sources\.0\.profile = 'y'.*'web', 'encyclopedia', 'code'",
        ),
        ("stages: {sample: {use: quality/0123456789ab}}", r"stages\.sample\.use = .* is no dataset of stage sample"),
        ("stages: {dedup: {}}", r"stage 'dedup' reads 'ingest'.*Add a section 'ingest' to the recipe\."),
        ("stages: {export: {}}", r"Add a section 'ppo' to the recipe, or choose otherwise in export\.model\."),
        ("stages: [", "not valid YAML"),
        ("stages: {}", "has no stages"),
        ("extends: mine", "extend each other in a circle"),
        ("just text", "a recipe is a mapping"),
        ("", "the recipe is empty"),
        (
            "stages:\n  sample: {}\n  sample: {pages: 3}",
            r"line 3.*'sample' stands twice, first in line 2|stands twice.*line 3",
        ),
        ("stages:\n\tsample: {}", r"spaces, never with tabs \(.*mine\.yaml, line 2\)"),
        ("stages: {quality: {sources: [{presets: [gopher]}]}}", r"there is no preset 'gopher'.*gopher_quality"),
        (QUALITY.format("{presets: [c4], without: [c4_curly]}"), r"no rule 'c4_curly'.*c4_curly_brackets"),
        (QUALITY.format("{source: web}"), r"no entry of stages\.quality\.sources covers the source 'wikipedia'.*'\*'"),
        (
            "extends: demo\nstages: {redact: {sources: [{source: web}]}}",
            r"no entry of stages\.redact\.sources covers the source",
        ),
        (MIXTURE.format("wikipedi"), r"shards\.mixture names the source 'wikipedi'.*Did you mean 'wikipedia'"),
        (REPETITION.format("wikipedi", "quality", "[0, 1]"), r"shards\.repetition names the source 'wikipedi'"),
        (
            REPETITION.format("web", "wrds", "[0, 1]"),
            r"by 'wrds', which is no number of the attributes.*Did you mean 'words'",
        ),
        (REPETITION.format("web", "language", "[0, 1]"), r"by 'language', which is no number"),
        (REPETITION.format("web", "quality", "[0.5, 1]"), r"quantiles begin at 0, rise"),
        (POSITIVES.format("books*"), r"classifier\.positives names the source 'books\*'.*web"),
        (
            "extends: demo\nstages: {dedup: {source_priority: [wiki]}}",
            r"dedup\.source_priority names the source 'wiki'",
        ),
    ],
)
def test_mistakes_name_the_file_the_key_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(write(tmp_path, text))


def test_extending_merges_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path, "extends: demo\nrecipe: mine\nstages: {dedup: {bands: 20}}")
    mine, demo = load_recipe(path), load_recipe("demo")
    assert mine.name == "mine"
    assert mine.node("dedup").config.model_dump()["bands"] == 20
    assert [node.name for node in mine.nodes] == [node.name for node in demo.nodes]


@pytest.mark.parametrize("override", ["dedup", "bands=3", "dedupe.bands=3"])
def test_overrides_that_name_nothing_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_recipe("demo", [override])


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'demon'.*demo"):
        load_recipe("demon")


def test_a_scale_derives_the_pretraining() -> None:
    recipe = load_recipe("demo", ["scale=5M"])
    config = recipe.node("pretrain").config
    assert recipe.scale is not None
    assert recipe.scale.parameters == pytest.approx(5e6, rel=0.1)
    assert recipe.scale.model.vocab_size == 4096, "the recipe's own vocabulary"
    assert (config.model.hidden_size, config.model.layers) == (
        recipe.scale.model.hidden_size,
        recipe.scale.model.layers,
    )
    assert (config.steps, config.tokens) == (0, recipe.scale.tokens)
    assert config.batch_sequences % config.ranks == 0
    assert config.eval_every == 400, "what the scale does not derive stays the recipe's"
    by_hand = load_recipe("demo", ["pretrain.optimizer.lr=0.5", "scale=5M", "pretrain.ranks=4"]).node("pretrain").config
    assert by_hand.optimizer.lr == 0.5
    assert by_hand.batch_sequences % 4 == 0


def test_a_recipe_overrules_its_own_scale_and_the_scale_what_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: demo\nscale: 2M\nstages:\n  pretrain: {optimizer: {lr: 0.25}, seed: 7}\n")
    config = load_recipe(str(path)).node("pretrain").config
    assert (config.optimizer.lr, config.seed, config.steps) == (0.25, 7, 0)
    assert config.optimizer.schedule.shape == "wsd"


@pytest.mark.parametrize(("text", "message"), [("scale: heavy", "number of parameters"), ("scale: 3", "outside")])
def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: demo\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(path))


def test_a_scale_needs_pretraining(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("scale: 5M\nstages:\n  sample: {}\n")
    with pytest.raises(ConfigError, match="stage `pretrain`"):
        load_recipe(str(path))


def test_a_recipe_that_is_no_text_or_no_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("description: café".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_recipe(str(tmp_path / "latin.yaml"))
    with pytest.raises(ConfigError, match="a folder, not a recipe"):
        load_recipe(str(tmp_path))
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbfrecipe: marked\r\nextends: demo\r\n")
    assert load_recipe(str(tmp_path / "marked.yaml")).name == "marked", "a mark and carriage returns are no mistake"


def test_what_a_reader_may_not_expect_is_said(tmp_path: Path) -> None:
    said = notices(load_recipe("demo").nodes)
    assert any("web: only documents in en are kept" in line for line in said)
    assert any("texts: no quality rule holds" in line and "give the source" not in line for line in said)
    assert not any(line.startswith(("wikipedia", "code")) for line in said)


def test_a_curve_is_said_in_words() -> None:
    said = notices(
        load_recipe("demo", ["shards.repetition=[{source: web, curve: [[0, 0], [0.3, 1], [0.9, 4]]}]"]).nodes
    )
    assert (
        "web: tokens ranked by quality, from the worst to the best 0% to 30% never, 30% to 90% × 1, 90% to 100% × 4"
        in said
    )


def test_a_source_that_does_not_say_what_it_is_is_told_with_the_choices(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: demo\nstages:\n  ingest: {sources: [{name: web, kind: jsonl, address: x.jsonl}]}\n"
        "  classifier: {positives: [{source: web}], negatives: [{source: web}]}\n  shards: {mixture: []}\n"
    )
    said = notices(load_recipe(str(path)).nodes)
    assert any(
        line.startswith("web: no quality rule holds") and "give the source a profile (web," in line for line in said
    )
    with pytest.raises(ConfigError, match="classifier.positives wants sources of profile `encyclopedia`"):
        load_recipe(str(path), ["classifier.positives=[{profile: encyclopedia}]"])


def test_a_stage_may_take_a_published_dataset_as_it_is(tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["tokenizer.use=tokenizer/0123456789ab"])
    assert recipe.node("tokenizer").use == "tokenizer/0123456789ab"
    entry = next(
        entry for entry in plan(recipe.nodes, Store.at(tmp_path), StageSelection(), "x") if entry.stage == "tokenizer"
    )
    assert entry.action is Action.BLOCKED and "which is not in this workspace" in entry.reason
    rows = "ingest.sources=[{name: rows, kind: jsonl, address: x.jsonl, profile: chat}]"
    assert load_recipe("demo", ["tokenizer.use=tokenizer@books"]).node("tokenizer").use == "tokenizer@books"
    taken = load_recipe("demo", [rows, "classifier.use=0123456789ab", "shards.mixture=[]"])
    assert taken.node("classifier").use == "classifier/0123456789ab", "its sets of texts are nobody's business then"


FOREIGN = """
stages:
  sft: {base_model: BASE, conversations: HERE/talks.jsonl}
  preferences: {pairs: HERE/pairs.jsonl}
  reward: {}
  dpo: {publish: best}
"""


def test_a_recipe_may_start_from_a_model_and_comparisons_of_ones_own(tmp_path: Path) -> None:
    """Nothing of the crawl is needed; what is not there is said by the plan."""
    base = tmp_path / "base"
    base.mkdir()
    recipe = load_recipe(write(tmp_path, FOREIGN.replace("BASE", str(base)).replace("HERE", str(tmp_path))))
    assert recipe.node("preferences").config.model_dump()["pairs"] == (f"{tmp_path}/pairs.jsonl",)
    assert recipe.node("preferences").upstream == {"sft": "sft"}

    def planned() -> list[tuple[Action, str]]:
        return [
            (entry.action, entry.reason) for entry in plan(recipe.nodes, Store.at(tmp_path), StageSelection(), "mine")
        ]

    blocked = planned()
    assert blocked[0][0] is Action.BLOCKED and "no such file" in blocked[0][1]
    (tmp_path / "talks.jsonl").write_text("{}\n")
    assert "no model folder" in planned()[0][1]
    (base / "config.json").write_text("{}")
    assert [action for action, _ in planned()] == [Action.RUN, Action.BLOCKED, Action.RUN, Action.RUN]
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    assert {action for action, _ in planned()} == {Action.RUN}
    before = fingerprint_payload(recipe.nodes[0].stage, recipe.nodes[0].config, {})
    (tmp_path / "talks.jsonl").write_text('{"other": 1}\n')
    assert fingerprint_payload(recipe.nodes[0].stage, recipe.nodes[0].config, {}) != before
