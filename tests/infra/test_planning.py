"""Plans say what would happen and why, and never touch the store."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.config import Config
from infra.errors import ConfigError, HeadwaterError
from infra.fingerprint import fingerprint_payload, short_fingerprint
from infra.planning import StageSelection, plan
from infra.runner import run_stage
from infra.stage import ShardStage, StageNode
from infra.stage_source import stage_source
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import Manifest, output_digest, write_manifest
from infra.store.store import Store
from tests.infra.run_toy import context
from tests.infra.toy import NUMBERS, SQUARES, NumbersConfig, SquaresConfig


def publish(store: Store, stage: ShardStage, config: Config, inputs: dict[str, Dataset], content: bytes) -> Dataset:
    payload = fingerprint_payload(stage, config, {role: dataset.digest for role, dataset in inputs.items()})
    fingerprint = short_fingerprint(payload)
    root = store.dataset_root(stage.name, fingerprint)
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data/x").write_bytes(content)
    outputs = [describe_file(root, "data/x")]
    manifest = Manifest(
        name=stage.name,
        fingerprint=fingerprint,
        payload=payload,
        source=stage_source(stage, config),
        config={},
        inputs=[],
        outputs=outputs,
        output_digest=output_digest(outputs),
    )
    write_manifest(str(root), manifest)
    store.set_ref(stage.name, "toy", fingerprint)
    return Dataset.open(str(root))


def nodes(numbers: NumbersConfig | None = None, squares: SquaresConfig | None = None) -> list[StageNode]:
    return [StageNode(NUMBERS, numbers or NumbersConfig()), StageNode(SQUARES, squares or SquaresConfig())]


def actions(store: Store, wanted: list[StageNode], selection: StageSelection | None = None) -> list[tuple[str, str]]:
    return [(entry.action.value, entry.reason) for entry in plan(wanted, store, selection or StageSelection(), "toy")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path)


def test_nothing_published_runs_everything(store: Store) -> None:
    assert actions(store, nodes()) == [("RUN", "not built yet"), ("RUN", "its input numbers will be rebuilt")]


def test_published_stages_are_skipped_and_changes_are_named(store: Store) -> None:
    numbers = publish(store, NUMBERS, NumbersConfig(), {}, b"n")
    publish(store, SQUARES, SquaresConfig(), {"numbers": numbers}, b"s")
    assert [action for action, _ in actions(store, nodes())] == ["SKIP", "SKIP"]
    changed = actions(store, nodes(squares=SquaresConfig(modulus=3)))
    assert changed[0][0] == "SKIP"
    assert changed[1] == ("RUN", "config changed: modulus 2 -> 3")


def test_execution_fields_rerun_nothing(store: Store) -> None:
    publish(store, NUMBERS, NumbersConfig(), {}, b"n")
    assert actions(store, nodes(NumbersConfig(seconds_a_unit=5)))[0][0] == "SKIP"


def test_drift_names_the_files_and_skips_fails_or_runs_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, NUMBERS, NumbersConfig(), {}, b"n")
    now = stage_source(NUMBERS, NumbersConfig())
    monkeypatch.setattr("infra.planning.stage_source", lambda stage, config: {**now, "tests/infra/new.py": "0"})
    said = "its source was edited since (drift): tests/infra/new.py"
    assert actions(store, nodes())[0] == (
        "SKIP", f"published, and neither its configuration, code version nor inputs changed; {said}",
    )  # fmt: skip
    run = context(store.home)
    assert run_stage(nodes()[0], {}, run).reason.endswith(said)
    with pytest.raises(
        HeadwaterError, match=r"'numbers' is published, but its source was edited .*tests/infra/new\.py"
    ):
        run_stage(nodes()[0], {}, replace(run, on_drift="fail"))
    assert run_stage(nodes()[0], {}, replace(run, on_drift="rerun")).action.value == "RUN"


def test_early_cut_off_an_equal_output_reruns_nothing_downstream(store: Store) -> None:
    numbers = publish(store, NUMBERS, NumbersConfig(files=4), {}, b"same bytes")
    publish(store, SQUARES, SquaresConfig(), {"numbers": numbers}, b"s")
    publish(store, NUMBERS, NumbersConfig(files=5), {}, b"same bytes")
    assert [action for action, _ in actions(store, nodes(NumbersConfig(files=5)))] == ["SKIP", "SKIP"]


def test_a_missing_file_is_rebuilt(store: Store) -> None:
    numbers = publish(store, NUMBERS, NumbersConfig(), {}, b"n")
    numbers.local("data/x").unlink()
    assert actions(store, nodes())[0] == ("RUN", "published files are missing or damaged: data/x")


def test_selection_blocks_what_its_inputs_do_not_allow(store: Store) -> None:
    blocked = plan(nodes(), store, StageSelection(only=("squares",)), "toy")
    assert [entry.action.value for entry in blocked] == ["BLOCKED", "BLOCKED"]
    assert [entry.selected for entry in blocked] == [False, True]
    publish(store, NUMBERS, NumbersConfig(), {}, b"n")
    ready = plan(nodes(), store, StageSelection(start_at="squares", force=("squares",)), "toy")
    assert [(entry.action.value, entry.selected) for entry in ready] == [("SKIP", False), ("RUN", True)]


def test_unknown_stages_and_backward_ranges_are_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="no stage 'cubes'"):
        plan(nodes(), store, StageSelection(only=("cubes",)), "toy")
    with pytest.raises(ConfigError, match="comes after"):
        plan(nodes(), store, StageSelection(start_at="squares", stop_after="numbers"), "toy")
    with pytest.raises(ConfigError, match="reads 'numbers'"):
        plan(nodes()[1:], store, StageSelection(), "toy")


def test_planning_writes_nothing(store: Store) -> None:
    actions(store, nodes())
    assert not any(store.home.iterdir())
