"""Weights of sources for a target: found where the best source is known, built once, written, refused with a sentence."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.ablate.lab import load_lab
from flows.cli.main import build_app
from flows.mix.run import Mixing, MixResult, plan_mix, run_mix, target_of, write_mixture
from flows.recipe import load_recipe
from infra.errors import ConfigError, HeadwaterError, InputError
from infra.progress import Reporters
from infra.store.store import Store
from tests.flows.ablate.toy import RECIPE, InProcessLauncher, bad, good, use_launcher, write_jsonl

PLACES = ("cellar", "harbour", "island", "palace", "valley", "station", "temple", "desert", "tower", "canyon")
KINDS = ("small", "empty", "golden", "frozen", "distant", "famous", "ruined", "silent", "hidden", "ancient")
DEEDS = ("guards", "mirrors", "outlives", "feeds", "borders", "haunts", "rivals", "shelters")


def other(number: int, seed: int = 0) -> str:
    """English with words of its own."""
    random_ = random.Random(f"other {seed} {number}")

    def thing() -> str:
        return f"{random_.choice(KINDS)} {random_.choice(PLACES)}"

    return "\n".join(f"Our {thing()} {random_.choice(DEEDS)} a {thing()} near some {thing()}." for _ in range(16))


def write_recipe(folder: Path) -> Path:
    """Three sources: two kinds of English and noise. The target is of the first two, held out."""
    kinds = {"tales": good, "travels": other, "noise": bad}
    for name, make in kinds.items():
        write_jsonl(folder / f"{name}.jsonl", [make(number) for number in range(24)])
    held = [good(number, seed=1) for number in range(10)] + [other(number, seed=1) for number in range(5)]
    write_jsonl(folder / "held.jsonl", held)
    language = folder / "none"
    text = RECIPE.format(texts=folder / "tales.jsonl", language=language)
    raw: dict[str, Any] = yaml.safe_load(text)
    raw["stages"] = {
        name: raw["stages"][name] for name in ("ingest", "decontaminate", "redact", "tokenizer", "shards", "pretrain")
    }
    (first,) = raw["stages"]["ingest"]["sources"]
    raw["stages"]["ingest"]["sources"] = [
        {**first, "name": name, "address": str(folder / f"{name}.jsonl")} for name in kinds
    ]
    raw["stages"]["decontaminate"] = {
        "evaluations": [{"name": "own", "address": str(folder / "held.jsonl"), "fields": ["text"]}]
    }
    raw["stages"]["pretrain"] |= {
        "model": {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 2, "intermediate_size": 64},
        "ranks": 1, "threads_per_rank": 1,
    }  # fmt: skip
    raw["stages"]["pretrain"]["checkpoint_every"] = 1000
    raw["stages"]["pretrain"]["optimizer"]["lr"] = 0.02
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def mixing(folder: Path, **changes: Any) -> Mixing:
    targets = (target_of(str(folder / "held.jsonl")),)
    return Mixing(**{"recipe": str(folder / "toy.yaml"), "targets": targets, "tokens": 64 * 4 * 20, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MixResult, InProcessLauncher]:
    folder = tmp_path_factory.mktemp("mix")
    write_recipe(folder)
    launcher = InProcessLauncher()
    with pytest.MonkeyPatch.context() as patch:
        use_launcher(patch, launcher)
        result = run_mix(mixing(folder), Store.at(folder / "ws"), quiet=True)
    return folder, result, launcher


def test_the_target_gets_the_sources_that_it_is_like(done) -> None:
    _, result, launcher = done
    assert launcher.started == ["training.pretrain", "training.answers"] * 3
    rows = {row.source: row for row in result.rows}
    assert rows["tales"].weight > rows["travels"].weight > rows["noise"].weight and rows["noise"].weight < 0.1
    assert sum(row.weight for row in result.rows) == pytest.approx(1, abs=1e-3)
    assert rows["tales"].bits_per_byte < rows["noise"].bits_per_byte
    assert result.best < result.natural and 0 < result.gain.low <= result.gain.value <= result.gain.high
    assert result.gain.value == pytest.approx(result.natural - result.best, rel=0.3)


def test_no_source_is_read_more_often_than_allowed(done) -> None:
    folder, _, _ = done
    with pytest.MonkeyPatch.context() as patch:
        launcher = InProcessLauncher()
        use_launcher(patch, launcher)
        result = run_mix(mixing(folder, max_passes=1.2), Store.at(folder / "ws"), quiet=True)
        whole = run_mix(mixing(folder, piece="item"), Store.at(folder / "ws"), quiet=True)
        assert launcher.started == [], "what is published is not trained again"
        with pytest.raises(ConfigError, match=r"0\.5 passes over all sources have"):
            run_mix(mixing(folder, max_passes=0.5), Store.at(folder / "ws"), quiet=True)
    assert max(row.passes for row in result.rows) == pytest.approx(1.2, abs=1e-2)
    limited = [row for row in result.rows if row.limited]
    assert limited and any(row.weight < row.unlimited for row in limited)
    assert {row.source for row in whole.rows if row.weight > 0.01} == {"tales", "travels"}


def test_a_source_that_is_the_usual_target_is_told_and_left_out(done, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = done
    usual = (target_of(str(folder / "tales.jsonl")),)
    monkeypatch.setattr(Mixing, "measured", property(lambda self: usual))
    use_launcher(monkeypatch, InProcessLauncher())
    told: list[tuple[str, str]] = []
    reporter = Reporters([])
    monkeypatch.setattr(reporter, "message", lambda stage, text: told.append((stage, text)))
    result = run_mix(mixing(folder, targets=()), Store.at(folder / "ws"), reporter=reporter)
    assert [row.source for row in result.rows] == ["travels", "noise"]
    assert ("mix", "tales is not weighed: without the target's texts too little of it is left") in told
    with pytest.raises(InputError, match="source 'tales' has no documents left"):
        run_mix(mixing(folder, targets=(), sources=("tales", "noise")), Store.at(folder / "ws"), quiet=True)


@pytest.mark.slow
@pytest.mark.prefect
def test_weights_are_found_as_a_flow(done, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    from flows.mix.flow import mix, run_mix_as_flow
    from flows.params import MixParams

    folder, result, _ = done
    use_launcher(monkeypatch, InProcessLauncher())
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as client:
        assert run_mix_as_flow(mixing(folder), Store.at(folder / "ws")).rows == result.rows
        form = MixParams(recipe=str(folder / "toy.yaml"), workspace=str(folder / "ws"), dry_run=True)
        assert [row["source"] for row in mix(form)] == ["tales", "travels", "noise"]
        messages = {run.state.message for run in client.read_flow_runs() if run.state}
        assert any(message.startswith("mix: tales 0.") and "bits per byte better" in message for message in messages)
        assert any(artifact.key == "mixture" for artifact in client.read_artifacts())


def test_labels_are_its_own_and_a_plan_knows_what_is_there(done) -> None:
    folder, _, _ = done
    store = Store.at(folder / "ws")
    assert {label for name in store.names() for label in store.labels(name)} == {
        f"mix-toy-{s}" for s in ("tales", "travels", "noise")
    }
    assert [row["stages"] for row in plan_mix(mixing(folder), store)] == [[], [], []]
    fresh = plan_mix(mixing(folder), Store.at(folder / "other"))
    assert fresh[0]["stages"] == ["ingest", "decontaminate", "redact", "tokenizer", "shards"]


def test_the_mixture_is_written_with_the_lab_that_measures_it(done) -> None:
    folder, result, _ = done
    lab = write_mixture(result, folder / "mixed.yaml")
    mixture = load_recipe(str(folder / "mixed.yaml")).node("shards").config.mixture
    assert {entry.source: entry.weight for entry in mixture} == {
        row.source: row.weight for row in result.rows if row.weight >= 0.002
    }
    loaded = load_lab(str(lab))
    assert loaded.control == "worst" and loaded.config.arms["worst"].description == "noise alone"
    natural = loaded.recipes["natural"].node("shards").config.mixture
    assert {entry.source: entry.weight for entry in natural} == {row.source: row.natural for row in result.rows}
    assert loaded.config.measured == result.mixing.measured and loaded.config.tokens == result.model_tokens
    write_mixture(result, folder / "mixed.yaml")
    (folder / "mine.yaml").write_text("recipe: mine")
    with pytest.raises(ConfigError, match="mix did not write it"):
        write_mixture(result, folder / "mine.yaml")


def test_the_command_prints_weights_and_json(done) -> None:
    folder, result, _ = done
    with pytest.MonkeyPatch.context() as patch:
        use_launcher(patch, InProcessLauncher())
        arguments = [
            "mix",
            str(folder / "toy.yaml"),
            "--target",
            str(folder / "held.jsonl"),
            "--tokens",
            str(64 * 4 * 20),
        ]
        arguments += ["--workspace", str(folder / "ws")]
        told = CliRunner().invoke(build_app(arguments), [*arguments, "--write", str(folder / "mixed.yaml")])
        assert told.exit_code == 0 and "Measure  headwater ablate" in told.stdout and "tales" in told.stdout
        view = json.loads(CliRunner().invoke(build_app(arguments), [*arguments, "--json"]).stdout)
    assert view["predicted"]["gain"] == result.gain.as_dict()
    assert [row["weight"] for row in view["sources"]] == [row.weight for row in result.rows]


def test_the_bundled_labs_compare_equal_amounts_of_text() -> None:
    for name in ("threshold", "curve"):
        (entry,) = load_lab("repetition").recipes[name].node("shards").config.repetition
        assert entry.mean == pytest.approx(1), "as many tokens as every page once"
    assert load_lab("mixture").recipes["natural"].node("shards").config.mixture == ()


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"sources": ("tales", "poems")}, ConfigError, r"no source 'poems'.*Sources: tales, travels, noise"),
        ({"sources": ("tales",)}, ConfigError, "'tales' is the only source"),
        ({"tokens": 10**9}, InputError, r"'\w+' is too small for its model: 1,000,000,000 tokens are .* passes"),
        ({"tokens": 64}, InputError, "too small for its model: 64 tokens are 0 steps"),
        ({"targets": ("tales.jsonl",)}, InputError, "overlaps the training texts"),
        ({"targets": ("held.jsonl:body",)}, InputError, r"item 1 of evaluation 'held' has no text in 'body'"),
        ({"targets": ("few.jsonl",)}, InputError, "'few' has 3 documents: too few"),
        ({"targets": ("missing.jsonl",)}, InputError, "is not there|there is no file"),
    ],
)
def test_what_cannot_be_weighed_is_one_sentence(
    done, changes: dict[str, Any], kind: type[HeadwaterError], said: str
) -> None:
    folder, _, _ = done
    write_jsonl(folder / "few.jsonl", [good(number, seed=2) for number in range(3)])
    if "targets" in changes:
        changes = {"targets": tuple(target_of(str(folder / file)) for file in changes["targets"])}
    with pytest.MonkeyPatch.context() as patch:
        use_launcher(patch, InProcessLauncher())
        with pytest.raises(kind, match=said):
            run_mix(mixing(folder, **changes), Store.at(folder / "ws"), quiet=True)


@pytest.mark.parametrize("file", ["few.jsonl", "held.jsonl:body", "tales.jsonl:title"])
def test_a_bad_target_is_told_by_the_plan_and_before_anything_is_built(tmp_path: Path, file: str) -> None:
    write_recipe(tmp_path)
    write_jsonl(tmp_path / "few.jsonl", [good(number, seed=2) for number in range(3)])
    asked = mixing(tmp_path, targets=(target_of(str(tmp_path / file)),))
    store = Store.at(tmp_path / "ws")
    for ask in (lambda: plan_mix(asked, store), lambda: run_mix(asked, store, quiet=True)):
        with pytest.raises(InputError, match="too few|has no text in"):
            ask()
    assert not store.names()


def test_a_file_that_mix_did_not_write_is_told_before_anything_is_built(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(b"\xffrecipe: mine")
    for name in ("mine.yaml", "."):
        arguments = ["mix", str(tmp_path / "toy.yaml"), "--target", str(tmp_path / "held.jsonl"), "--plan"]
        arguments += ["--workspace", str(tmp_path / "ws"), "--write", str(tmp_path / name)]
        told = CliRunner().invoke(build_app(arguments), arguments)
        assert isinstance(told.exception, ConfigError) and "mix did not write it" in str(told.exception)
