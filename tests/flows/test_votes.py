"""Votes as a dataset: what is in it, what makes it another one, and that reward and DPO learn what people prefer."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from alignment import dpo, preferences, reward
from alignment.job import ModelJob
from alignment.turns import Message
from alignment.votes.compare import Choice, Comparing
from alignment.votes.log import LOG, Showing, VoteLog, votes_folder
from alignment.votes.study import Study
from flows.cli.main import _run
from flows.votes import publish_votes
from infra.errors import InputError
from infra.job import JobRequest, load_result
from infra.planning import Action
from infra.stage import JobStage
from infra.store.dataset import Dataset
from infra.store.store import Store
from tests.alignment.jobs import ANIMALS, build_world
from tests.alignment.votes.room import BAD, GOOD, comparing, side_of, vote_all
from tests.support import adopt_dataset
from training.job import StopSignal
from training.ranks import Ranks, init_distributed


def store_with_votes(folder: Path) -> Store:
    store = Store.at(folder)
    with comparing(votes_folder(store), 10, repeats=0.3, overlap=2) as found:
        vote_all(found, "ada", lambda shown: side_of(shown, GOOD))
        vote_all(found, "bo", lambda shown: "both_bad", seconds=0.5)
        found.undo("ada")
    return store


def rows(dataset: Dataset) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dataset.local("data/votes.jsonl").read_text().splitlines()]


def test_every_vote_is_kept_or_counted_with_its_reason(tmp_path: Path) -> None:
    store = store_with_votes(tmp_path)
    dataset = publish_votes(store, quiet=True).dataset
    found, counts = rows(dataset), dataset.manifest.counts
    assert counts.incoming == 26 and counts.kept == len(found) == 20 and counts.dropped == {"repeat": 5, "undone": 1}
    row = found[0]
    assert row.keys() == {
        "id", "prompt", "a", "b", "winner", "annotator", "weight", "models", "sampling", "left", "seconds", "when",
    }  # fmt: skip
    assert (row["annotator"], row["winner"], row["models"]) == ("ada", "a", {"a": GOOD.dataset, "b": BAD.dataset})
    assert row["sampling"].keys() == {"temperature", "top_p", "max_tokens", "seeds"} and row["seconds"] == 5
    assert store.get_ref("votes", "latest") == dataset
    weighed = publish_votes(store, quiet=True, weights={"ada": 0.5}, min_seconds=1).dataset
    assert {each["weight"] for each in rows(weighed)} == {0.5} and weighed.manifest.counts.dropped["too_fast"] == 10


def test_only_votes_make_another_dataset(tmp_path: Path) -> None:
    store = store_with_votes(tmp_path)
    first = publish_votes(store, quiet=True)
    assert publish_votes(store, quiet=True).action == Action.SKIP
    with comparing(votes_folder(store), 10, repeats=0.3, overlap=3) as found:
        showing = found.next("cy")
        assert publish_votes(store, quiet=True).action == Action.SKIP  # also while somebody votes, and was merely shown
        assert showing is not None
        found.vote("cy", showing.id, "left", 1)
    second = publish_votes(store, quiet=True)
    assert second.action == Action.RUN and second.dataset.digest != first.dataset.digest


def test_nothing_to_publish(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with pytest.raises(InputError, match="no votes here yet"):
        publish_votes(store, quiet=True)
    with comparing(votes_folder(store), 1) as found:
        found.next("ada")
    with pytest.raises(InputError, match="no votes here yet"):
        publish_votes(store, quiet=True)
    assert not (tmp_path / "runs").exists()


# ---- the command ----------------------------------------------------------------------------------------------------


def called(capsys: pytest.CaptureFixture[str], store: Store, *words: str) -> tuple[int, str]:
    code = _run(["votes", *words, "--workspace", store.address])
    told = capsys.readouterr()
    return code, told.out or told.err


def test_the_command_publishes_and_tells_the_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_with_votes(tmp_path)
    code, told = called(capsys, store, "--json")
    view = json.loads(told)
    assert code == 0 and view["published"]["dataset"] == f"votes/{store.read_ref('votes', 'latest')}"
    assert {row["model"] for row in view["models"]} == {GOOD.dataset, BAD.dataset}
    assert view.keys() >= {"models", "agreement", "annotators", "votes", "left_won"}
    code, told = called(capsys, store)
    assert code == 0 and "Annotators" in told and "20 votes to learn from, 5 repeat, 1 undone" in told
    assert "published" not in json.loads(called(capsys, store, "board", "--json")[1])
    assert json.loads(called(capsys, store, "publish", "--json")[1]).keys() == {"published"}


def test_the_command_makes_links_and_refuses_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.at(tmp_path)
    (tmp_path / "questions.txt").write_text("why?\nhow?\n")
    code, told = called(
        capsys, store, "setup", "--set", f"prompts={tmp_path / 'questions.txt'}", "--set", "overlap=2", "--json"
    )
    assert code == 0 and (json.loads(told)["overlap"], json.loads(told)["found"]) == (2, 2)
    code, told = called(capsys, store, "annotators", "add", "Ada", "L", "--server", "https://host/", "--json")
    assert code == 0 and json.loads(told)["link"].startswith("https://host/?annotator=")
    assert called(capsys, store, "annotators")[1].strip() == "Ada L"
    for words, sentence in (
        (("annotators", "add", "ada l"), "already"),
        (("annotators", "greet", "Ada"), "nothing to do with annotators"),
        (("setup", "--set", "overlap=0"), "overlap"),
        (("setup", "--set", "colour=red"), "colour"),
        (("board", "now"), "no further words"),
        (("board", "--set", "overlap=2"), "nothing to --set"),
        ((), "no votes here yet"),
    ):
        code, told = called(capsys, store, *words)
        assert code == 1 and sentence in " ".join(told.split()), told


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


def published(
    folder: Path, ranks: Ranks, stage: JobStage, run: Any, inputs: Mapping[str, Dataset], **settings: Any
) -> Any:
    """Run a job's stage in this process; its figures, and its dataset."""
    request = JobRequest(stage.name, "0" * 12, {}, inputs, folder / "dataset", folder / "work")
    for path in (request.data_dir, request.work_dir):
        path.mkdir(parents=True, exist_ok=True)
    job: ModelJob[Any] = ModelJob(
        request, stage.config.model_validate({"dtype": "fp32", **settings}), ranks, StopSignal()
    )
    run(job)
    result = load_result(request.work_dir)
    assert result is not None
    return job, adopt_dataset(folder / "dataset", stage.name, result.outputs)


@pytest.mark.slow
def test_reward_and_dpo_learn_what_people_prefer(tmp_path: Path, ranks: Ranks) -> None:
    """Annotators prefer one place to another nine times in ten, whichever model names it and wherever it stands."""
    world = build_world(tmp_path, 60)
    store, chance = Store.at(tmp_path / "workspace"), random.Random(0)
    places = ("in the house.", "on the tree.")

    def speak(model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
        turned = int(messages[0].content.split()[-1]) % 2  # each model says the one as often as the other
        return places[(model == "bad") != bool(turned)]

    def choose(shown: Showing) -> Choice:
        sure = chance.random()
        if sure < 0.1:
            return "tie"
        house = "left" if shown.pair.text(shown.left) == places[0] else "right"
        return house if sure < 0.95 else ("right" if house == "left" else "left")  # type: ignore[return-value]

    prompts = [(Message("user", f"where is the {animal}? {number}"),) for animal in ANIMALS for number in range(10)]
    with Comparing(VoteLog(votes_folder(store) / LOG), Study(repeats=0), prompts, (GOOD, BAD), speak) as found:
        for name in ("ada", "bo"):
            vote_all(found, name, choose)
        models = {row["model"]: row for row in found.board()["models"]}
    assert models[GOOD.dataset]["low"] < 1000 < models[GOOD.dataset]["high"]  # neither model is the better one
    inputs = {"sft": world["pretrain"], "votes": publish_votes(store, quiet=True).dataset}
    _, inputs["preferences"] = published(
        tmp_path / "preferences", ranks, preferences.STAGE, preferences.run, inputs,
        pairs=["dataset://votes/votes.jsonl"], held_out_fraction=0.4,
    )  # fmt: skip
    shared = {"lr": 3e-3, "batch_size": 8, "micro_batch": 8, "epochs": 3}
    judge, _ = published(tmp_path / "reward", ranks, reward.STAGE, reward.train, inputs, **shared)
    assert judge.stats["accuracy"]["low"] > 0.5 and judge.stats["accuracy"]["value"] > 0.8
    policy, _ = published(tmp_path / "dpo", ranks, dpo.STAGE, dpo.train, inputs, generation_prompts=0, **shared)
    assert policy.stats["accuracy"]["low"] > 0.5 and policy.stats["margin"]["low"] > 0
