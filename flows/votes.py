"""People's votes in a workspace: published as a dataset, and told as a board."""

from typing import Any

from alignment.votes.board import board
from alignment.votes.log import LOG, read_votes, votes_folder
from flows.recipe import build_recipe
from flows.start import run_in_workspace
from infra.errors import InputError
from infra.planning import StageSelection
from infra.runner import StageOutcome
from infra.store.store import Store

NAME = "votes"


def publish_votes(store: Store, *, quiet: bool = False, **settings: Any) -> StageOutcome:
    """Publish the votes that stand as dataset ``votes``; of the same votes nothing is made anew. Raises InputError where
    there is none. ``settings`` are the stage's."""
    log = votes_folder(store) / LOG
    if not read_votes(log).standing:  # said before a run is on record that could not do anything
        raise InputError("there are no votes here yet", where=str(log), remedy="Vote in Compare of `headwater serve`.")
    section = {"log": str(log), **settings}
    recipe = build_recipe({"recipe": NAME, "stages": {NAME: section}}, f"{NAME}.yaml")
    return run_in_workspace(recipe, StageSelection(), store, use_prefect=False, quiet=quiet).outcomes[0]


def votes_board(store: Store) -> dict[str, Any]:
    """What the votes say so far. Raises InputError where there is none."""
    return board(list(read_votes(votes_folder(store) / LOG).standing.values()))
