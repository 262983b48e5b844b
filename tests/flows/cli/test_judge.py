"""``headwater judge``: two model folders, the held-out prompts of a workspace, and a judge of another package."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from alignment.judge import OutsideReward
from alignment.preferences import PAIR_SCHEMA
from flows.cli.main import build_app
from infra.store.store import Store
from tests.alignment.jobs import build_world
from tests.support import write_dataset

BRIEF = OutsideReward(lambda prompt, reply: -float(len(reply)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    home = tmp_path_factory.mktemp("judge")
    asked = [{"role": "user", "content": "where is the cat?"}]
    prompts = [[{"role": "user", "content": f"where is cat {n}?"}] for n in range(6)]
    # A second vote on a pair, and the result of a tool.
    prompts += [
        prompts[-1],
        prompts[-1],
        [*asked, {"role": "tool", "content": "here"}],
        [*asked, {"role": "tool", "content": ""}],
    ]
    rows = [
        {
            "id": str(n),
            "prompt": json.dumps(prompt),
            "chosen": "a",
            "rejected": "b",
            "split": ("train", "held_out")[n % 2],
        }
        for n, prompt in enumerate(prompts)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), sink)
    files = {"data/pairs.parquet": sink.getvalue().to_pybytes()}
    write_dataset(home / "datasets/preferences/0123456789ab", "preferences", files)
    opened = Store.at(str(home))
    opened.set_ref("preferences", "latest", "0123456789ab")
    build_world(home / "world", 30)
    return opened


def judge(store: Store, *more: str) -> Result:
    folder = f"{store.home}/world/pretrain/data/model"
    words = ["judge", folder, "--against", folder, "--workspace", store.address, "--max-new-tokens", "6", *more]
    return CliRunner().invoke(build_app(words), words)


def view(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_judge_by_dotted_path_decides(store: Store) -> None:
    path = f"{__name__}:BRIEF"
    found = view(judge(store, "--judge", path, "--json"))
    assert found["prompts"] == found["ties"] == 3, "the same model says the same"
    assert found["estimate"]["calls"] == 0 and found["win_rate"]["value"] == 0.5
    assert "3 prompts" in judge(store, "--judge", path).stdout


def test_what_it_would_take_is_said_before_anybody_is_asked(store: Store) -> None:
    nowhere = ["--judge", "one", "--judge", "two", "--endpoint", "http://127.0.0.1:9/v1", "--temperature", "0.9"]
    found = view(judge(store, *nowhere, "--estimate", "--json"))
    assert found["judge"] == "one, two" and "win_rate" not in found
    told = judge(store, "--judge", "one")
    assert told.exit_code != 0 and "0 endpoints" in str(told.exception)
