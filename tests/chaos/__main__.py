"""``python -m tests.chaos --kills 50 --seed 7``: kill random processes of a run, and demand the same bytes.

Server, worker, driver (the process of a flow run), ranks of process groups and processes of the pool are killed with
SIGKILL at random moments. With ``--containers`` the runs and their stages are containers, which are killed too; that
takes Docker, or root and ``dockerd`` to start it. Exit code 1 if any stage of any completed run differs from an
undisturbed run, 3 if ``--minutes`` were over first: the same command then goes on.
"""

import argparse
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from flows.stages import STAGE_NAMES
from tests.chaos.campaign import Campaign, pursue
from tests.chaos.containers import engine_with_image
from tests.chaos.victims import WEIGHTS
from tests.docker.engine import Engine

UNFINISHED_EXIT = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills to make (default 50)")
    parser.add_argument("--seed", type=int, default=7, help="which victims, when (default 7)")
    parser.add_argument("--recipe", default="smoke", help="a recipe by name or file (default smoke)")
    parser.add_argument("--minutes", type=float, default=90.0, help="stop after so long (default 90)")
    parser.add_argument(
        "--gap", type=float, nargs=2, default=(2.0, 12.0), metavar="S", help="seconds of work between kills"
    )
    parser.add_argument("--folder", type=Path, default=Path("workspace/chaos"), help="where everything is kept")
    parser.add_argument("--containers", action="store_true", help="run stages as containers, and kill containers too")
    options = parser.parse_args()
    try:
        with engine_with_image() if options.containers else nullcontext() as engine:
            carry_out(options, engine)
    except pytest.skip.Exception as reason:  # no engine can be had
        sys.exit(str(reason))


def carry_out(options: argparse.Namespace, engine: Engine | None) -> None:
    out = Console()
    campaign = Campaign.open(
        options.folder.absolute(), options.recipe, options.seed, options.kills, tuple(options.gap), engine
    )
    pursue(campaign, options.minutes, lambda text: out.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False))
    out.print(table(campaign))
    for number, entry in enumerate(campaign.rounds, 1):
        verdict = f"DIFFERENT in {', '.join(entry['different'])}" if entry["different"] else "same digests"
        out.print(
            f"run {number}: {entry['kills']} kills, submitted {entry['submitted']} times, {verdict}", markup=False
        )
    if campaign.different:
        sys.exit(1)
    if not campaign.done:
        out.print("Not finished: the same command goes on.")
        sys.exit(UNFINISHED_EXIT)


def table(campaign: Campaign) -> Table:
    """Kills by victim and stage."""
    made = Counter((kill.stage, kill.victim) for kill in campaign.kills)
    shown = Table(title=f"{len(campaign.kills)} kills", title_justify="left", box=None, pad_edge=False)
    shown.add_column("stage")
    kinds = [kind for kind in WEIGHTS if kind != "container" or campaign.engine]
    for kind in kinds:
        shown.add_column(kind, justify="right")
    for stage in STAGE_NAMES:
        if any(kill.stage == stage for kill in campaign.kills):
            shown.add_row(stage, *(str(made[stage, kind] or "") for kind in kinds))
    shown.add_row("all", *(str(sum(kill.victim == kind for kill in campaign.kills)) for kind in kinds))
    return shown


if __name__ == "__main__":
    main()
