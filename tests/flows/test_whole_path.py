"""The whole path on the smoke recipe, as a user runs it: killed again and again, then asked about everything it did.

One uninterrupted run and one that is killed at seven places must publish the same digests. The commands are then held to
their JSON, and the exported model to ``transformers``.
"""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pytest

from flows.cli import main
from flows.provenance.fates import find_rows
from flows.recipe import load_recipe
from infra.store.dataset import Dataset
from infra.store.store import Store

HEADWATER = [sys.executable, "-m", "flows.cli.main"]
LIMIT_S = 500


def smoke_stages() -> tuple[str, ...]:
    return tuple(node.name for node in load_recipe("smoke").nodes)


def program(*arguments: str, typed: str = "") -> str:
    """A command as a program of its own; returns what it prints."""
    done = subprocess.run(
        [*HEADWATER, *arguments], input=typed, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def headwater(*arguments: str) -> tuple[int, str, str]:
    """The same in this process, without the seconds that a start takes: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["headwater", *arguments])
        code = main._run(arguments)
    return code, out.getvalue(), err.getvalue()


def as_json(*arguments: str) -> Any:
    code, out, err = headwater(*arguments, "--json")
    assert code == 0, err[-3000:]
    return json.loads(out)


def digests(home: Path) -> dict[str, str]:
    return {row["name"]: row["digest"] for row in as_json("status", "--workspace", str(home))["datasets"]}


@dataclass(frozen=True)
class Run:
    """An uninterrupted run on its way, and the files with what it prints."""

    process: subprocess.Popen[bytes]
    home: Path
    out: Path
    err: Path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """It goes beside the run that is killed: one after the other they are the longest part of the suite."""
    home, printed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("printed")
    out, err = printed / "out", printed / "err"
    command = [*HEADWATER, "run", "smoke", "--no-prefect", "--workspace", str(home)]
    with out.open("wb") as out_stream, err.open("wb") as err_stream:
        process = subprocess.Popen(command, stdout=out_stream, stderr=err_stream)
    yield Run(process, home, out, err)
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def home(undisturbed: Run) -> Path:
    """The workspace with one uninterrupted run."""
    assert undisturbed.process.wait(LIMIT_S) == 0, undisturbed.err.read_text()[-3000:]
    said = undisturbed.out.read_text()
    assert "Funnel" in said and "Evaluation" in said and "report.html" in said
    return undisturbed.home


def dataset(home: Path, name: str) -> Dataset:
    found = Store.at(home).get_ref(name, "smoke")
    assert found is not None
    return found


# ---- killed anywhere ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """SIGKILL ``victim`` once ``moment`` has come."""

    name: str
    moment: Callable[[Path], bool]
    victim: Callable[[psutil.Process], psutil.Process]

    @property
    def ends_the_run(self) -> bool:
        return self.victim is driver


def driver(process: psutil.Process) -> psutil.Process:
    return process


def pool_worker(process: psutil.Process) -> psutil.Process:
    """The youngest descendant while a data stage works."""
    return max(process.children(recursive=True), key=lambda child: child.create_time())


def rank(process: psutil.Process) -> psutil.Process:
    """One process of the torchrun group."""
    for child in process.children(recursive=True):
        if "--request" in child.cmdline() and "torch.distributed.run" not in child.cmdline():
            return child
    raise psutil.NoSuchProcess(process.pid)


def receipts(stage: str) -> Callable[[Path], bool]:
    return lambda home: any(home.glob(f"work/{stage}/*/journal/*.jsonl"))


def published(stage: str) -> Callable[[Path], bool]:
    return lambda home: any(home.glob(f"datasets/{stage}/*/manifest.json"))


def checkpoints(stage: str, number: int) -> Callable[[Path], bool]:
    """So many checkpoints were written, as far as they were not rotated away: at least one of that rank or later."""

    def reached(home: Path) -> bool:
        found = [path.name for path in home.glob(f"work/{stage}/*/checkpoints/step-*") if path.suffix != ".tmp"]
        return any(int(name.removeprefix("step-")) >= number for name in found)

    return reached


KILLS = (
    Kill("driver, ingest half done", receipts("ingest"), driver),
    Kill("pool worker, dedup", receipts("dedup"), pool_worker),
    Kill("driver, between tokenizer and shards", published("tokenizer"), driver),
    Kill("rank, pretraining", checkpoints("pretrain", 5), rank),
    Kill("driver, pretraining", checkpoints("pretrain", 20), driver),
    Kill("rank, PPO", checkpoints("ppo", 1), rank),
    Kill("driver, before the report", published("export"), driver),
)


def test_a_run_killed_at_seven_places_publishes_the_same_digests(
    undisturbed: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    landed = _killed_run(KILLS, tmp_path)
    home = request.getfixturevalue("home")
    assert len(landed) >= 5, landed
    assert {"rank, pretraining", "driver, pretraining"} <= set(landed)
    ours, theirs = digests(tmp_path), digests(home)
    assert {name: ours[name] for name in smoke_stages()} == {name: theirs[name] for name in smoke_stages()}


TORCH = ("pretrain.parallel", "sft", "reward", "ppo", "dpo")
TORCH_KILLS = (
    Kill("rank, pretraining", checkpoints("pretrain", 5), rank),
    Kill("driver, pretraining", checkpoints("pretrain", 20), driver),
    Kill("rank, fine-tuning", checkpoints("sft", 4), rank),
    Kill("driver, PPO", checkpoints("ppo", 1), driver),
    Kill("rank, DPO", checkpoints("dpo", 2), rank),
)


@pytest.mark.slow
def test_the_torch_engine_goes_the_path_from_pretraining_on_killed_or_not(home: Path, tmp_path: Path) -> None:
    whole, killed = (Path(shutil.copytree(home, tmp_path / name)) for name in ("whole", "killed"))
    for work in killed.glob("work/*"):  # what the other engine left there would be taken for checkpoints of this one
        shutil.rmtree(work)
    settings = ["--stop-after", "dpo", *(word for place in TORCH for word in ("--set", f"{place}.engine=torch"))]
    before = digests(home)
    program("run", "smoke", "--no-prefect", "--workspace", str(whole), *settings)
    landed = _killed_run(TORCH_KILLS, killed, *settings)
    assert len(landed) >= 3 and "driver, pretraining" in landed, landed
    ours, theirs = digests(killed), digests(whole)
    learnt = ("pretrain", "sft", "reward", "ppo", "dpo")
    assert {name: ours[name] for name in learnt} == {name: theirs[name] for name in learnt}
    assert all(ours[name] != before[name] for name in ("pretrain", "sft", "dpo")), "these were the other engine's"


def _killed_run(kills: Sequence[Kill], home: Path, *settings: str) -> list[str]:
    """Run smoke again and again, killed at these places, until it comes to its end; the kills that landed."""
    pending, landed = list(kills), list[str]()
    for _ in range(len(kills) + 1):
        process = subprocess.Popen(
            [*HEADWATER, "run", "smoke", "--no-prefect", "--workspace", str(home), *settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        pending = _kill_until_it_ends(process, pending, home, landed)
        if process.wait(timeout=LIMIT_S) == 0:
            break
    assert process.returncode == 0
    return landed


def _kill_until_it_ends(
    process: subprocess.Popen[bytes], pending: list[Kill], home: Path, landed: list[str]
) -> list[Kill]:
    """Carry out the kills in order; returns those still to come once the run has ended or was killed."""
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if pending and pending[0].moment(home):
            kill, pending = pending[0], pending[1:]
            family = psutil.Process(process.pid).children(recursive=True)
            try:
                kill.victim(psutil.Process(process.pid)).send_signal(signal.SIGKILL)
            except (psutil.NoSuchProcess, ValueError):
                continue  # it had just ended: this place is past
            landed.append(kill.name)
            if kill.ends_the_run:
                process.wait(timeout=30)
                assert _all_gone(family), "a process outlived its driver"
                return pending
        time.sleep(0.01)
    return pending


def _all_gone(family: list[psutil.Process], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family):
            return True
        time.sleep(0.1)
    return False


# ---- asked about it -------------------------------------------------------------------------------------------------


def test_a_second_run_skips_everything_with_reasons(home: Path) -> None:
    plan = as_json("plan", "smoke", "--workspace", str(home))
    assert [entry["stage"] for entry in plan["stages"]] == list(smoke_stages())
    assert {entry["action"] for entry in plan["stages"]} == {"SKIP"}
    assert all(entry["reason"] and entry["fingerprint"] for entry in plan["stages"])
    again = json.loads(program("run", "smoke", "--no-prefect", "--json", "--workspace", str(home)))
    assert {entry["action"] for entry in again["stages"]} == {"SKIP"}


def test_one_changed_parameter_reruns_what_depends_on_it(home: Path) -> None:
    plan = as_json("plan", "smoke", "--set", "dedup.bands=20", "--workspace", str(home))
    actions = {entry["stage"]: entry["action"] for entry in plan["stages"]}
    stages = smoke_stages()
    before = stages[: stages.index("dedup")]
    assert {actions[name] for name in before} == {"SKIP"}
    assert {actions[name] for name in stages[len(before) :]} == {"RUN"}
    assert "bands 14 -> 20" in next(entry["reason"] for entry in plan["stages"] if entry["stage"] == "dedup")


def test_why_tells_kept_dropped_and_duplicate(home: Path) -> None:
    kept = find_rows(dataset(home, "redact"), "data/", pc.field("source") == "web", ["id", "url"])[0]
    dropped = find_rows(dataset(home, "quality"), "ledger/", pc.field("source") == "web", ["id", "url", "rule"])[0]
    copy = find_rows(dataset(home, "dedup"), "ledger/", pc.field("rule").is_valid(), ["id", "url", "survivor_id"])[0]
    story = as_json("why", kept["url"], "--workspace", str(home))
    assert {step["verdict"] for step in story["history"]} == {"kept"}
    story = as_json("why", dropped["id"].hex(), "--workspace", str(home))
    assert (story["history"][-1]["stage"], story["history"][-1]["rule"]) == ("quality", dropped["rule"])
    story = as_json("why", copy["id"].hex(), "--workspace", str(home))
    assert story["history"][-1]["survivor"] == copy["survivor_id"].hex()
    code, _, err = headwater("why", "http://nobody.example/", "--json", "--workspace", str(home))
    assert code == 1 and set(json.loads(err)) == {"error", "where", "remedy"}


def test_trace_leads_from_a_step_to_documents_and_back(home: Path) -> None:
    view = as_json("trace", "--step", "3", "--workspace", str(home))
    assert view["step"] == 3 and view["documents"]
    for document in view["documents"]:
        assert {"id", "url", "source", "archive", "offset", "rank"} <= document.keys()
        assert document["url"] and document["offset"] >= 0
    one = view["documents"][0]
    back = as_json("trace", "--url", one["url"], "--workspace", str(home))
    assert 3 in back["steps"] and back["shards"]
    lineage = as_json("trace", "--model", "ppo", "--workspace", str(home))
    assert {"sample", "ingest", "dedup", "shards", "pretrain", "sft", "reward"} <= {
        entry["name"] for entry in lineage["datasets"]
    }


def test_a_takedown_reaches_from_a_url_to_everything_made_of_it(home: Path) -> None:
    url = as_json("trace", "--step", "3", "--workspace", str(home))["documents"][0]["url"]
    view = as_json("takedown", "--url", url, "--workspace", str(home))
    assert [document["url"] for document in view["documents"]] == [url]
    assert {"ingest", "quality", "redact", "shards"} <= {entry["name"] for entry in view["datasets"]}
    assert 3 in view["steps"][0]["steps"] and view["checkpoints"]
    assert {"pretrain", "sft", "ppo", "export"} <= {name.split("/")[0] for name in view["derived"]}
    rebuild = view["rebuild"]
    assert rebuild.index("ingest") < rebuild.index("shards") < rebuild.index("pretrain") < rebuild.index("export")


def test_two_models_are_compared_on_the_same_rows(home: Path) -> None:
    view = as_json("evaluate", "sft", "--compare", "pretrain", "--rows", "4", "--items", "2", "--workspace", str(home))
    assert view["model"] == "sft - pretrain"
    tasks = {task["task"]: task for task in view["tasks"]}
    assert {"web", "wikipedia", "humaneval"} <= tasks.keys()
    assert all(task["low"] <= task["value"] <= task["high"] for task in tasks.values())
    assert any(task["value"] != 0 for task in tasks.values())


def test_two_checkpoints_are_compared_on_the_same_rows(home: Path, tmp_path: Path) -> None:
    options = ("--rows", "4", "--items", "2", "--workspace", str(home))
    (work,) = (home / "work" / "pretrain").iterdir()
    older, newer = sorted((work / "checkpoints").glob("step-*"))
    step, page = int(older.name.removeprefix("step-")), tmp_path / "page.html"
    by_step = as_json("evaluate", f"pretrain:{step}", "--compare", newer.name, "--report", str(page), *options)
    assert by_step["model"] == f"pretrain:{step} - {newer.name}" and by_step["model"] in page.read_text()
    assert by_step["tasks"] == as_json("evaluate", str(older), "--compare", str(newer), *options)["tasks"]
    tasks = {task["task"]: task for task in by_step["tasks"]}
    assert {"web", "wikipedia", "humaneval"} <= tasks.keys() and tasks["web"]["value"] != 0
    code, _, err = headwater("evaluate", "pretrain:3", "--workspace", str(home))
    assert code == 1 and "there is no checkpoint of step 3" in err


def test_inspect_report_and_status_read_the_store(home: Path, tmp_path: Path) -> None:
    view = as_json("inspect", "--stage", "quality", "--rule", "language", "--sample", "2", "--workspace", str(home))
    assert view["incoming"] == view["kept"] + sum(view["dropped"].values()) + view["failed"]
    assert len(view["dropped_samples"]) == 2 and all(row["text"] for row in view["dropped_samples"])
    page = as_json("report", "smoke", "--to", str(tmp_path / "page.html"), "--workspace", str(home))["report"]
    assert "<html" in Path(page).read_text()
    status = as_json("status", "--workspace", str(home))
    assert status["runs"][0]["state"] == "completed"
    assert {"name", "fingerprint", "digest", "rows", "bytes"} <= status["datasets"][0].keys()


def test_the_model_learnt_and_its_figures_are_told(home: Path) -> None:
    result = as_json("evaluate", "pretrain", "--rows", "4", "--workspace", str(home))
    assert {"task", "metric", "value", "low", "high", "n"} <= result["tasks"][0].keys()
    rows = json.loads(dataset(home, "evaluate").local("data/evaluation.json").read_text())["tasks"]
    loss = {row["model"]: row["value"] for row in rows if row["metric"] == "nats_per_token"}
    assert loss["pretrain"] < loss["unigram"]


def test_the_exported_model_is_the_same_in_transformers(home: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.text_model import load_text_model

    assert headwater("export", "--to", str(tmp_path / "model"), "--workspace", str(home))[0] == 0
    ours = load_text_model(tmp_path / "model", "cpu")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "  The river's source: naïve 12345 🙂\n\tdef f(x): return x"
    ids = ours.encode(text)
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    batch = torch.tensor([ids])
    with torch.no_grad():
        assert torch.allclose(ours.decoder.logits(ours.decoder(batch)), theirs(batch).logits, atol=1e-5)


def test_generate_is_reproducible_and_chat_ends_politely(home: Path) -> None:
    words = ("generate", "The", "--max-new-tokens", "8", "--seed", "3", "--workspace", str(home))
    assert as_json(*words)["text"] == json.loads(program(*words, "--json"))["text"]
    assert "model>" in program("chat", "--max-new-tokens", "8", "--workspace", str(home), typed="hello\n\n")
