"""A ladder takes its rungs from the recipe, trains each once, leaves ``latest`` alone and predicts what they follow."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

import flows.ladder
from flows.cli.ladder import command
from flows.ladder import run_ladder
from flows.recipe import load_recipe
from infra.errors import InputError
from infra.planning import Action
from infra.runner import StageOutcome
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from tests.support import write_dataset
from training.metrics import flops_per_token
from training.model import parameter_count
from training.scale import plan_scale

SIZES = [3e5, 6e5, 1.2e6, 2.4e6]
SEQ_LEN, VOCABULARY = 128, 1024


def law(flops: float) -> float:
    return float(1.0 + 2.0 * (flops / 1e12) ** -0.2)


def with_stats(dataset: Dataset, stats: dict[str, object]) -> Dataset:
    return Dataset(dataset.root, dataset.manifest.model_copy(update={"stats": stats}))


@pytest.fixture
def rungs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[StageNode, RunContext]]:
    """Instead of training, every rung reaches exactly what the law says. What was asked for is recorded."""
    asked: list[tuple[StageNode, RunContext]] = []
    stats = {"vocab_size": VOCABULARY, "seq_len": SEQ_LEN, "sequences": 10_000}

    def published(store: Store, name: str, label: str) -> Dataset:
        return with_stats(write_dataset(tmp_path / name, name, {}), stats)

    def run(node: StageNode, inputs: Mapping[str, Dataset], context: RunContext, force: bool) -> StageOutcome:
        asked.append((node, context))
        config = node.config
        shape = config.model.model_copy(update={"vocab_size": VOCABULARY})
        reached = law(flops_per_token(shape, SEQ_LEN) * config.tokens)
        figures = {
            "parameters": parameter_count(shape),
            "tokens": config.tokens,
            "steps": config.tokens // (config.batch_sequences * SEQ_LEN),
            "bits_per_byte": {"web": reached - 0.1, "code": reached + 0.1},
        }
        published_at = context.store.dataset_root("pretrain", "0" * 12)
        dataset = with_stats(write_dataset(published_at, "pretrain", {}), figures)
        return StageOutcome("pretrain", Action.RUN, "", dataset)

    monkeypatch.setattr(flows.ladder, "_published", published)
    monkeypatch.setattr(flows.ladder, "run_directly", run)
    return asked


def test_rungs_are_the_recipes_pretraining_at_other_sizes(rungs, tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["pretrain.seed=5", "pretrain.optimizer.clip=0.5"])
    ladder = run_ladder(recipe, Store.at(tmp_path), SIZES, 20e6, quiet=True)
    sizes = [rung["parameters"] for rung in ladder.rungs]
    assert sizes == sorted(sizes) and sizes[0] < 0.2 * sizes[-1]
    for node, context in rungs:
        config = node.config
        assert (config.seed, config.optimizer.clip, config.ranks) == (5, 0.5, 2)
        assert config.batch_sequences % 2 == 0 and config.steps == 0
        assert (context.label, context.follow_latest) == ("ladder-demo", False)
    expected = law(plan_scale(parameters=20e6, vocab_size=VOCABULARY, seq_len=SEQ_LEN, gpus=2).flops)
    view = ladder.as_dict()["target"]
    assert view["value"] == pytest.approx(expected, rel=0.02)
    assert view["low"] <= view["value"] <= view["high"]


def test_one_domain_can_be_asked_for(rungs, tmp_path: Path) -> None:
    mean, code = (
        run_ladder(load_recipe("demo"), Store.at(tmp_path), SIZES, 20e6, domain=domain, quiet=True)
        for domain in ("", "code")
    )
    for left, right in zip(mean.rungs, code.rungs, strict=True):
        assert right["value"] == pytest.approx(left["value"] + 0.1)
    with pytest.raises(InputError, match="poems"):
        run_ladder(load_recipe("demo"), Store.at(tmp_path), SIZES, 20e6, domain="poems", quiet=True)


def test_the_command_draws_and_prints(rungs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "ladder.svg"
    command(
        "demo", "300k,600k,1.2M,2.4M", "20M", 20.0, "", chart, workspace=str(tmp_path / "ws"), set_=None, json=False
    )
    assert "20M" in capsys.readouterr().out
    drawn = ElementTree.fromstring(chart.read_text())
    assert len(drawn.findall("{*}circle")) == 5, "four rungs and the target"
    assert "20M" in [each.text for each in drawn.findall("{*}text")]


def test_without_shards_it_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--stop-after shards"):
        run_ladder(load_recipe("demo"), Store.at(tmp_path), SIZES, 20e6, quiet=True)
