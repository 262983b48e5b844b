"""What a label tells after runs of the whole, of a part, with other settings, failed and killed."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.execute import RunResult, run_recipe
from flows.machines import ExecutionSettings
from flows.recipe import Recipe
from infra import labels
from infra.doctor import label_folders
from infra.errors import HeadwaterError, InputError
from infra.labels import MOVES, dangling_labels, move_labels, unfinished_moves
from infra.planning import StageSelection
from infra.stage import StageNode
from infra.store.files import remove_tree, write_json
from infra.store.store import Store
from tests.infra.run_toy import context
from tests.infra.toy import NUMBERS, SQUARES, NumbersConfig, SquaresConfig
from tests.support import InProcessExecutor

WHOLE = StageSelection()


def run(
    home: Path, selection: StageSelection = WHOLE, *, modulus: int = 2, files: int = 4, broken: int = 0
) -> RunResult:
    numbers = NumbersConfig(files=files, broken_units=broken)
    nodes = (StageNode(NUMBERS, numbers), StageNode(SQUARES, SquaresConfig(modulus=modulus)))
    recipe = Recipe("toy", "", ExecutionSettings(), nodes, "toy.yaml")
    return run_recipe(recipe, selection, replace(context(home), executor=InProcessExecutor()))


def told(home: Path, label: str = "toy") -> dict[str, str | None]:
    store = Store.at(home)
    return {name: store.read_ref(name, label) for name in ("numbers", "squares")}


def made(result: RunResult) -> dict[str, str]:
    return {name: dataset.manifest.fingerprint for name, dataset in result.datasets.items()}


def test_a_run_of_the_whole_moves_the_recipes_label_and_latest_together(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert told(tmp_path) == told(tmp_path, "latest") == made(first)
    second = run(tmp_path, modulus=3)
    assert told(tmp_path) == told(tmp_path, "latest") == made(second) != made(first)


@pytest.mark.parametrize(
    ("selection", "changed"),
    [
        (StageSelection(only=("squares",)), {"modulus": 3}),
        (StageSelection(only=("numbers",)), {"files": 5}),
        (StageSelection(stop_after="numbers"), {"files": 5}),
        (StageSelection(only=("numbers",), force=("numbers",)), {}),
    ],
)
def test_a_trial_of_a_part_moves_nothing(
    tmp_path: Path, selection: StageSelection, changed: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = made(run(tmp_path))
    run(tmp_path, selection, **changed)
    assert told(tmp_path) == told(tmp_path, "latest") == before
    assert ("label 'toy' stays where it was" in capsys.readouterr().err) == bool(changed)


def test_a_failed_run_moves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(tmp_path, files=1, modulus=1000, broken=1)
    assert told(tmp_path) == {"numbers": None, "squares": None}
    before = made(run(tmp_path))
    with pytest.raises(HeadwaterError):
        run(tmp_path, files=5, broken=1)
    assert told(tmp_path) == before


def test_stages_run_one_after_another_are_labelled_as_they_come(tmp_path: Path) -> None:
    first = run(tmp_path, StageSelection(only=("numbers",)))
    assert told(tmp_path) == {"numbers": made(first)["numbers"], "squares": None}
    other = run(tmp_path, StageSelection(stop_after="numbers"), files=3)
    assert told(tmp_path)["numbers"] == made(other)["numbers"], "nothing was ever whole: the newest part counts"
    second = run(tmp_path, StageSelection(start_at="squares"), files=3)
    assert told(tmp_path) == told(tmp_path, "latest") == made(second)


def test_a_run_that_starts_in_the_middle_and_ends_at_the_end_is_whole(tmp_path: Path) -> None:
    run(tmp_path)
    second = run(tmp_path, StageSelection(start_at="squares"), modulus=3)
    assert told(tmp_path) == made(second)


def test_a_label_cannot_point_at_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="which is not published"):
        Store.at(tmp_path).set_ref("numbers", "toy", "0" * 12)


def test_a_stage_that_left_the_recipe_loses_its_label(tmp_path: Path) -> None:
    result, store = run(tmp_path), Store.at(tmp_path)
    only = {"numbers": result.datasets["numbers"]}
    move_labels(store, "toy", only, ["numbers"], whole=True)
    assert told(tmp_path) == {"numbers": made(result)["numbers"], "squares": None}
    assert told(tmp_path, "latest") == made(result), "another recipe's stages stay the latest"


def test_a_move_that_was_killed_is_finished_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path)

    class Killed(BaseException):
        """Stands for kill -9: nothing of ours runs after it."""

    def half(store: Store) -> None:
        for label in unfinished_moves(store):
            store.set_ref("numbers", label, second["numbers"])
            raise Killed

    with monkeypatch.context() as patch:
        second = made(run(tmp_path / "other", files=5))
        for name in ("numbers", "squares"):
            target = tmp_path / "other" / "datasets" / name / second[name]
            target.rename(tmp_path / "datasets" / name / second[name])
        patch.setattr(labels, "_finish", half)
        with pytest.raises(Killed):
            run(tmp_path, files=5)
    (check,) = [check for check in label_folders(Store.at(tmp_path)) if check.state == "warn"]
    assert "toy" in check.detail
    run(tmp_path, StageSelection(only=("numbers",)))
    assert unfinished_moves(Store.at(tmp_path)) == [] and told(tmp_path) == second != made(first)


def test_the_doctor_sees_a_label_that_points_at_nothing(tmp_path: Path) -> None:
    result, store = run(tmp_path), Store.at(tmp_path)
    assert [check.state for check in label_folders(store)] == ["ok"]
    remove_tree(result.datasets["squares"].root)
    assert dangling_labels(store) == ["squares@latest", "squares@toy"]
    (check,) = label_folders(store)
    assert check.state == "fail" and "squares@toy" in check.detail
    write_json(f"{store.address}/{MOVES}/x.move", {"moves": {}, "gone": []})
    assert {check.state for check in label_folders(store)} == {"fail", "warn"}
