"""The data half alone: a recipe is planned and run up to what needs torch, with neither torch nor Prefect installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from infra.store.store import Store
from tests.support import REPOSITORY

BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        absent = {"deepspeed", "fastapi", "httpx", "prefect", "safetensors", "sqlalchemy", "starlette", "torch"}
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_a_recipe_is_refused_only_for_the_stages_that_need_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    words = ["miller", "river", "stone", "bridge", "water", "wheel", "house", "garden", "village"]
    texts = (" ".join(words[row * step % 9] for step in range(1, 40)) + f" {row}" for row in range(60))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    stages = {
        "ingest": {"sources": [{"name": "mine", "kind": "jsonl", "address": str(tmp_path / "rows.jsonl"), "profile": "none"}]},
        "tokenizer": {"vocab_size": 380},
        "shards": {"seq_len": 16},
        "pretrain": {"steps": 20},
        "sft": {},
        "evaluate": {"models": ["sft"]},
        "report": {},
    }  # fmt: skip
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps({"scale": "5M", "execution": {"workers": 1}, "stages": stages}))

    def headwater(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "flows.cli.main", *arguments, "--workspace", str(tmp_path / "work")]
        search = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, error = headwater("plan", str(recipe), "--json", "--no-forecast")
    plans = {entry["stage"]: entry for entry in json.loads(out)["stages"]}
    assert code == 1 and [name for name, entry in plans.items() if entry["action"] == "BLOCKED"] == [
        "pretrain", "sft", "evaluate",
    ]  # fmt: skip
    said = json.loads(error)
    assert said["error"] == "stage 'pretrain' cannot run: this needs torch, which is not installed here"
    assert said["remedy"] == "pip install 'headwater[train]', or run the stages before it: --stop-after STAGE."
    code, _, error = headwater("run", str(recipe))
    assert code == 1 and "pip install 'headwater[train]'" in error
    assert headwater("run", str(recipe), "--stop-after", "shards")[0] == 0
    store = Store.at(tmp_path / "work")
    assert store.get_ref("shards", "mine") is not None
    code, out, error = headwater("takedown", "--url", "rows.jsonl#rows.jsonl@0", "--json")
    assert (code, error) == (0, "") and json.loads(out)["documents"], "who holds a page is told without torch"
    code, _, error = headwater("render", "slurm", str(recipe))
    assert code == 1 and "this needs torch" in error
    code, _, error = headwater("up")
    assert code == 1 and "pip install 'headwater[prefect]'" in error


def test_a_recipe_of_data_alone_is_planned_without_torch_and_prefect_where_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a b c"}\n')
    source = {"name": "mine", "kind": "jsonl", "address": str(tmp_path / "rows.jsonl"), "profile": "none"}
    stages = {"ingest": {"sources": [source]}, "dedup": {}, "tokenizer": {"vocab_size": 380}, "shards": {"seq_len": 16}}
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps({"stages": stages}))
    program = """
import sys
from flows.cli import main
assert main._run(["plan", sys.argv[1], "--json", "--no-forecast", "--workspace", sys.argv[2]]) == 0
print({"torch", "prefect", "deepspeed", "pandas"} & set(sys.modules), file=sys.stderr)
"""
    command = [sys.executable, "-c", program, str(recipe), str(tmp_path / "work")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert [entry["action"] for entry in json.loads(done.stdout)["stages"]] == 4 * ["RUN"]
