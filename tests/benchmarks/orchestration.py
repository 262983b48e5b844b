"""``headwater bench orchestration``: what orchestration costs.

| part | figures | takes |
|---|---|---|
| ``--overhead`` | ``overhead_fraction``: seconds of a run as a Prefect flow that are not its stages' work, over 1,800 | 2 min |
| ``--skips`` | ``skip_all_server_s``, ``skip_all_ephemeral_s``: a run in which every stage is published | 1 min |
| ``--units`` | ``plan_90k_s``, ``plan_90k_gb``, ``resume_90k_s``: a work list of 90,000 archives | 2 min |
| ``--ray`` | ``ray_two_nodes_ratio``: the data path on two Ray nodes of one core against one | 11 min |

Without a part's flag all but ``--ray`` are measured. ``--workspace`` names a workspace in which ``--recipe`` was run already;
without it, ``--overhead`` makes one that ``--skips`` then uses.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from infra.errors import HeadwaterError
from tests.benchmarks.dedup_parts.measure import measure
from tests.benchmarks.orchestration_parts.server import HEADWATER, plain_environment, server_over

PARTS = "tests.benchmarks.orchestration_parts"
RUN_S = 1800.0
"""The length of run that the cost is set against."""

Rows = list[dict[str, Any]]


def run(
    overhead: bool = False,
    skips: bool = False,
    units: bool = False,
    ray: bool = False,
    recipe: str = "smoke",
    workspace: str = "",
    number: int = 90_000,
    rounds: int = 3,
) -> dict[str, Any]:
    """``number`` archives in the work list; ``rounds`` of each skipped run, of which the median counts."""
    everything = not (overhead or skips or units or ray)
    figures: dict[str, float] = {}
    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="bench-orchestration-") as name:
        home = Path(workspace) if workspace else Path(name) / "workspace"
        if units or everything:
            _work_list(Path(name) / "list", number, figures, rows)
        if overhead or skips or everything:
            with server_over(home, recipe):
                if overhead or not workspace:
                    _overhead(home, recipe, figures, rows)
                if skips or everything:
                    _skipped(home, recipe, rounds, "server", figures, rows)
        if skips or everything:
            _skipped(home, recipe, rounds, "ephemeral", figures, rows)
    if ray:
        from tests.benchmarks.orchestration_parts.ray import FIGURE, ray_two_nodes

        figures[FIGURE], measured = ray_two_nodes()
        rows += measured
    return {"figures": figures, "rows": rows}


def _overhead(home: Path, recipe: str, figures: dict[str, float], rows: Rows) -> None:
    """Which seconds count as work is said in ``whole_run``; the rest of the command's wall time is orchestration.

    It does not grow with the length of the stages: a stage's flow run, artifacts, manifest and labels cost the same
    whatever it does. Only progress is told more often; it is told at most every five seconds, from a thread beside the work.
    """
    done = measure([sys.executable, "-m", f"{PARTS}.whole_run", recipe, str(home)], plain_environment())
    cost = done.seconds - done.result["work"]
    figures["overhead_fraction"] = cost / RUN_S
    rows.append(
        {
            "part": "overhead",
            "recipe": recipe,
            "stages": done.result["stages"],
            "wall_s": done.seconds,
            "work_s": done.result["work"],
            "orchestration_s": cost,
            "of_which_reporting_s": done.result["reporting"],
            "orchestration_s_a_stage": cost / done.result["stages"],
            "fraction_of_this_run": cost / done.seconds,
            "derivation": f"overhead_fraction = orchestration_s / {RUN_S:.0f} s, of a run with {recipe}'s stages",
        }
    )


def _skipped(home: Path, recipe: str, rounds: int, kind: str, figures: dict[str, float], rows: Rows) -> None:
    """The whole command, from its start to its exit."""
    command = [*HEADWATER, "run", recipe, "--json", "--workspace", str(home)]
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        done = subprocess.run(
            command + (["--prefect"] if kind == "ephemeral" else []),
            capture_output=True, text=True, env=plain_environment(), check=False,
        )  # fmt: skip
        taken.append(time.perf_counter() - began)
        if done.returncode:
            raise HeadwaterError(f"the run failed: {done.stderr.strip()[-300:]}", where=str(home))
        actions = [stage["action"] for stage in json.loads(done.stdout)["stages"]]
        if set(actions) != {"SKIP"}:
            raise HeadwaterError("a stage was not skipped", where=str(home), remedy=f"First run {recipe} there.")
    figures[f"skip_all_{kind}_s"] = statistics.median(taken)
    rows.append({"part": "skips", "server": kind, "stages": len(actions), "seconds": taken})


def _work_list(folder: Path, number: int, figures: dict[str, float], rows: Rows) -> None:
    """From the start of the process to the first unit handed out: new, then with all but ten units done."""
    program = [sys.executable, "-m", f"{PARTS}.work_list"]
    environment = {**os.environ, "HEADWATER_CACHE": str(folder / "cache")}
    made = measure([*program, "make", str(folder), str(number)], environment)
    new = measure([*program, "first", str(folder)], environment)
    receipts = measure([*program, "done", str(folder)], environment)
    resumed = measure([*program, "first", str(folder)], environment)
    name = f"{number // 1000}k"
    figures[f"plan_{name}_s"] = new.seconds
    figures[f"plan_{name}_gb"] = max(new.result["peak_gb"], resumed.result["peak_gb"])
    figures[f"resume_{name}_s"] = resumed.seconds
    rows += [
        {
            "part": "units",
            "what": what,
            "units": number,
            "seconds": done.seconds,
            "cpu_s": done.cpu_seconds,
            **done.result,
        }
        for what, done in (("make archives", made), ("plan", new), ("make receipts", receipts), ("resume", resumed))
    ]
