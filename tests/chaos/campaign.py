"""A campaign of kills against runs of a recipe, and what it is held to.

    an undisturbed run once  ->  its digests
    again and again: a run through server and worker, and every few seconds of its work a random victim gets SIGKILL;
    what was killed is started again; a run whose process is gone is submitted again, as an operator would
    a run that completes is compared, its datasets deleted, and the next begins; the last is let through in peace

With an ``engine``, the runs are containers (``tests.chaos.containers``), each stage one, and containers are victims too.
Everything is below one folder, and ``campaign.json`` in it is written after each kill: a campaign that was stopped goes on.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.operate.deployments import full_name
from flows.recipe import load_recipe
from infra.runs import read_events
from infra.store.files import read_json, write_json
from infra.store.lease import is_alive
from infra.store.store import Store
from tests.chaos.containers import ContainerCluster, share_downloads, undisturbed_run
from tests.chaos.victims import WEIGHTS, flow_runs, victims
from tests.docker.engine import Engine
from tests.flows.cluster import FINAL, Cluster, running, wait_for

TICK_S = 0.5
LOST_S = 60.0
"""A run that was submitted and has had no process for so long is given up: its worker died between the two."""
SILENT_S = 5.0
"""The same for one that was running: its worker would have told its end by then."""
DOWN_S = (0.0, 12.0)
"""How long a killed server or worker stays away."""


@dataclass(frozen=True)
class Kill:
    """One kill that was made."""

    victim: str
    stage: str
    round: int


@dataclass
class Campaign:
    """Where a campaign stands."""

    folder: Path
    recipe: str
    seed: int
    wanted: int
    gap_s: tuple[float, float]
    engine: Engine | None = None
    kills: list[Kill] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Completed runs: how many kills each took, how often it was submitted, and the stages whose digest differs."""
    submitted: int = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        recipe: str,
        seed: int,
        wanted: int,
        gap_s: tuple[float, float],
        engine: Engine | None = None,
    ) -> "Campaign":
        campaign = cls(folder, recipe, seed, wanted, gap_s, engine)
        state = folder / "campaign.json"
        if state.exists():
            raw = json.loads(state.read_text())
            if raw.get("containers", False) != (engine is not None):
                where = "outside containers" if engine else "in containers"
                raise SystemExit(f"The runs of the campaign in {folder} are {where}: name another --folder.")
            campaign.kills = [Kill(**kill) for kill in raw["kills"]]
            campaign.rounds, campaign.submitted = raw["rounds"], raw["submitted"]
        return campaign

    def save(self) -> None:
        kills = [asdict(kill) for kill in self.kills]
        state = {"kills": kills, "rounds": self.rounds, "submitted": self.submitted, "containers": bool(self.engine)}
        write_json(self.folder / "campaign.json", state)

    @property
    def home(self) -> Path:
        return self.folder / "workspace"

    @property
    def done(self) -> bool:
        """All kills made, and a run completed after the last of them."""
        return len(self.kills) >= self.wanted and sum(entry["kills"] for entry in self.rounds) == len(self.kills)

    @property
    def different(self) -> list[str]:
        return sorted({stage for entry in self.rounds for stage in entry["different"]})


def pursue(campaign: Campaign, minutes: float, say: Callable[[str], None]) -> None:
    """Go on with the campaign until it is done or the time is over."""
    deadline = time.monotonic() + 60 * minutes
    campaign.folder.mkdir(parents=True, exist_ok=True)
    campaign.save()
    expected = undisturbed(campaign, say)
    rng = random.Random(f"{campaign.seed}:{len(campaign.kills)}")
    with running(cluster_of(campaign)) as cluster:
        for left in cluster.open_runs():  # of a campaign that was stopped
            _give_up(cluster, left)
        while not campaign.done and time.monotonic() < deadline:
            if _one_run(campaign, cluster, rng, deadline, say):
                wait_for(lambda: not cluster.family(), LOST_S, "every process of a completed run to end")
                compare(campaign, expected, say)


def cluster_of(campaign: Campaign) -> Cluster:
    if campaign.engine is None:
        return Cluster(campaign.home, campaign.recipe)
    cluster = ContainerCluster(campaign.home, campaign.recipe, engine=campaign.engine)
    share_downloads(campaign.folder / "undisturbed", campaign.home)
    return cluster


def undisturbed(campaign: Campaign, say: Callable[[str], None]) -> dict[str, str]:
    """The digests that every run must publish."""
    home = campaign.folder / "undisturbed"
    command = [sys.executable, "-m", "flows.cli.main", "run", campaign.recipe, "--no-prefect", "--json"]
    say("an undisturbed run first (or a look at it)")
    if campaign.engine is None:
        subprocess.run([*command, "--workspace", str(home)], check=True, capture_output=True)
    else:
        undisturbed_run(campaign.engine, campaign.recipe, home)
    return digests(home)


def digests(home: Path) -> dict[str, str]:
    return {dataset.name: dataset.digest for dataset in Store.at(home).datasets()}


def compare(campaign: Campaign, expected: dict[str, str], say: Callable[[str], None]) -> None:
    found = digests(campaign.home)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    before = sum(entry["kills"] for entry in campaign.rounds)
    campaign.rounds.append(
        {"kills": len(campaign.kills) - before, "submitted": campaign.submitted, "different": different}
    )
    campaign.submitted = 0
    campaign.save()
    say(f"run {len(campaign.rounds)} complete: " + (f"DIFFERENT: {', '.join(different)}" if different else "equal"))
    if not campaign.done:
        for name in ("datasets", "work", "runs"):
            shutil.rmtree(campaign.home / name, ignore_errors=True)


def _one_run(
    campaign: Campaign, cluster: Cluster, rng: random.Random, deadline: float, say: Callable[[str], None]
) -> bool:
    """Submit the whole path and disturb it, until its flow run has ended (True: completed), is lost, or time is over."""
    dispatch = _dispatch(campaign, rng)
    run = cluster.submit(full_name("pipeline", load_recipe(campaign.recipe)), dispatch=dispatch)
    campaign.submitted += 1
    say(f"submitted ({dispatch})")
    silence, due = Silence(), None
    while time.monotonic() < deadline:
        time.sleep(TICK_S)
        state = cluster.state(run)
        if state in FINAL:
            say(f"flow run {state}")
            return state == "COMPLETED"
        carried = flow_runs(cluster)
        for lost in silence.lost(cluster.open_runs(), carried):
            _give_up(cluster, lost)
            say("a flow run had no process and is given up")
        if len(campaign.kills) < campaign.wanted and run in carried and (stage := stage_at_work(cluster)):
            due = due or time.monotonic() + rng.uniform(*campaign.gap_s)
            if time.monotonic() >= due:
                _strike(campaign, cluster, rng, stage, say)
                due = None
    return False


def _dispatch(campaign: Campaign, rng: random.Random) -> str:
    """In containers each stage is one of its own; a run that is let through in peace is done sooner in one piece."""
    if len(campaign.kills) >= campaign.wanted:
        return "inline"
    return "deployments" if campaign.engine or rng.random() < 0.2 else "inline"


@dataclass
class Silence:
    """Since when flow runs, children too, are without a process."""

    since: dict[str, float] = field(default_factory=dict)

    def lost(self, runs: dict[str, str], processes: Set[str | None]) -> list[str]:
        """Runs, with their states, whose process will not come (any more)."""
        now = time.monotonic()
        self.since = {run: self.since.get(run, now) for run in runs if run not in processes}
        limits = {run: LOST_S if runs[run] in ("SCHEDULED", "PENDING") else SILENT_S for run in self.since}
        return [run for run, began in self.since.items() if now - began > limits[run]]


def _strike(campaign: Campaign, cluster: Cluster, rng: random.Random, stage: str, say: Callable[[str], None]) -> None:
    choice = victims(cluster)
    kinds = sorted(choice)
    victim = rng.choice(choice[rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]])
    try:
        victim.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return  # it ended by itself, just now
    campaign.kills.append(Kill(victim.kind, stage, len(campaign.rounds) + 1))
    campaign.save()
    say(f"kill {len(campaign.kills)}: {victim.kind} in {stage}")
    if victim.kind in ("worker", "server"):
        time.sleep(rng.uniform(*DOWN_S))
        (cluster.start_worker if victim.kind == "worker" else cluster.start_server)()


def _give_up(cluster: Cluster, run: str) -> None:
    """What the zombie automation does on a server of one's own: the run's process is gone, so the run has crashed."""
    state = {"type": "CRASHED", "name": "Crashed", "message": "its process was killed"}
    cluster.call(f"/flow_runs/{run}/set_state", {"state": state, "force": True})


def stage_at_work(cluster: Cluster) -> str | None:
    """The stage that a living run is in, or None between stages: what a killed run said last counts no more."""
    records = sorted(cluster.workspace.glob("runs/*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    living = [path for path in records if _lives(cluster, read_json(path.with_name("run.json")))]
    current = None
    for event in read_events(living[-1]) if living else ():
        if event["type"] == "stage_started":
            current = event["stage"]
        elif event["type"] in ("stage_published", "stage_failed", "run_ended"):
            current = None
    return current


def _lives(cluster: Cluster, record: dict[str, Any]) -> bool:
    if isinstance(cluster, ContainerCluster):
        return cluster.lives(record)
    return is_alive(record["pid"], record["process_started"])
