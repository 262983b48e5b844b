"""``headwater votes``: what people said in Compare, as a dataset to learn from and as a board; who may vote, on what."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json, table_of
from infra.errors import ConfigError
from infra.store.store import Store

ACTIONS = """Nothing: publish, and print the board. board: print it only. publish: publish only.
annotators: list them; annotators add|renew|remove NAME. setup: what is asked, by --set."""


def command(
    action: Annotated[Literal["", "board", "publish", "annotators", "setup"], typer.Argument(help=ACTIONS)] = "",
    words: Annotated[list[str] | None, typer.Argument(help="add NAME, renew NAME or remove NAME.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Of setup: prompts=questions.txt, overlap=2. Of publish: min_seconds=2. Repeatable."
        ),
    ] = None,
    server: Annotated[str, typer.Option(help="Address that annotators reach the server by.")] = "http://127.0.0.1:8000",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from flows.recipe import set_value
    from flows.votes import publish_votes, votes_board

    store, given = open_store(workspace), dict[str, Any]()
    for override in set_ or ():
        set_value(given, override)
    if words and action != "annotators":
        raise ConfigError(
            f"`{action}` takes no further words",
            where=" ".join(words),
            remedy=f"Write headwater votes {action}, with options.",
        )
    if given and action in ("annotators", "board"):
        raise ConfigError(f"`{action}` has nothing to --set", remedy="Setup and publish have.")
    if action == "annotators":
        _annotators(store, words or [], server, json)
    elif action == "setup":
        _setup(store, given, json)
    else:
        view: dict[str, Any] = {}
        if action != "board":
            outcome = publish_votes(store, quiet=json, **given)
            manifest = outcome.dataset.manifest
            address = f"{outcome.dataset.name}/{manifest.fingerprint}"
            view["published"] = {"dataset": address, "action": outcome.action, "counts": manifest.counts.model_dump()}
        if action != "publish":
            view |= votes_board(store)
        if json:
            print_json(view)
        else:
            _show(view, console())


def _setup(store: Store, given: Mapping[str, Any], json: bool) -> None:
    """Change the study; without anything to set, tell it."""
    from alignment.votes.log import votes_folder
    from alignment.votes.study import GUIDELINES, load_study, read_prompts, roles, save_study, study_of

    folder = votes_folder(store)
    study = load_study(folder)
    prompts = given.get("prompts")
    given = {**given, "prompts": [prompts]} if isinstance(prompts, str) else given
    study = study_of({**study.model_dump(mode="json"), **given}, "--set")
    found = read_prompts(study, {role: store.resolve(name) for role, name in roles(study).items()})
    save_study(folder, study)
    if json:
        print_json({**study.model_dump(mode="json"), "found": len(found)})
        return
    out = console()
    for name, value in study.model_dump(mode="json").items():
        shown = ", ".join(value) or "what annotators type" if isinstance(value, list) else value
        out.print(f"{name:<14}{shown}", markup=False)
    out.print(f"{len(found)} prompts. Guidelines, to be edited: {folder / GUIDELINES}", markup=False)


def _annotators(store: Store, words: list[str], server: str, json: bool) -> None:
    from alignment.votes.annotators import Annotators, checked_name
    from alignment.votes.log import votes_folder

    known = Annotators(votes_folder(store))
    if not words:
        rows = [{"name": each.name, "link": bool(each.token), "added": each.added} for each in known.all()]
        if json:
            print_json({"annotators": rows})
        else:
            lines = [f"{row['name']}{'' if row['link'] else '  (link removed)'}" for row in rows]
            console().print("\n".join(lines) or "No annotators yet: votes annotators add NAME.", markup=False)
        return
    what, name = words[0], " ".join(words[1:])
    if what not in ("add", "renew", "remove"):
        raise ConfigError(f"{what!r} is nothing to do with annotators", remedy="Say add, renew or remove, and a NAME.")
    token = getattr(known, what)(name)
    link = f"{server.rstrip('/')}/?annotator={token}#compare" if token else None
    if json:
        print_json({"name": checked_name(name), "link": link})
    else:
        console().print(link or f"The link of {checked_name(name)} opens nothing any more.", markup=False)


def _show(view: dict[str, Any], out: Console) -> None:
    if published := view.get("published"):
        counts = published["counts"]
        lost = "".join(f", {number} {reason}" for reason, number in counts["dropped"].items())
        out.print(f"{published['dataset']}: {counts['kept']} votes to learn from{lost}", markup=False)
    if "models" not in view:
        return
    models = table_of(
        "Models", "model", ">rating", ">95 %", ">at equal length", ">95 %", ">votes", ">won", ">lost", ">tied"
    )
    for row in view["models"]:
        models.add_row(
            row["model"], *_rating(row, "rating", ""), *_rating(row, "rating_length_controlled", "_length_controlled"),
            *(str(row[key]) for key in ("votes", "wins", "losses")), str(row["ties"] + row["both_bad"]),
        )  # fmt: skip
    out.print(models)
    agreed = view["agreement"]
    if agreed["alpha"] is not None:
        interval = f"{agreed['low']:.2f} to {agreed['high']:.2f}"
        out.print(f"Agreement {agreed['alpha']:.2f} ({interval}, Krippendorff's alpha over {agreed['pairs']} pairs)")
    people = table_of(
        "Annotators", "name", ">votes", ">consistent", ">repeats", ">agrees with others", ">median seconds"
    )
    for row in view["annotators"]:
        shares = [f"{row[key]:.0%}" if row[key] is not None else "" for key in ("consistency", "agrees_with_others")]
        people.add_row(
            row["name"], str(row["votes"]), shares[0], str(row["repeats"]), shares[1], f"{row['median_seconds']:.1f}"
        )
    out.print(people)


def _rating(row: Mapping[str, Any], key: str, suffix: str) -> tuple[str, str]:
    if row[key] is None:
        return "", ""
    return f"{row[key]:.0f}", f"{row[f'low{suffix}']:.0f} to {row[f'high{suffix}']:.0f}"
