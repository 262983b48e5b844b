"""``headwater trace``: a training step's documents, a URL's steps, a model's data."""

from typing import Annotated

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json, table_of
from flows.models import model_dataset
from flows.provenance.lineage import lineage_json
from infra.errors import ConfigError, InputError
from infra.store.dataset import Dataset
from infra.store.store import Store


def command(
    step: Annotated[int | None, typer.Option(min=1, help="Training step; its documents are listed.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank's part of the batch.")] = None,
    url: Annotated[str | None, typer.Option(help="The shards and steps that saw this URL.")] = None,
    model: Annotated[str | None, typer.Option(help="Every dataset and parameter behind a model.")] = None,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    if sum(choice is not None for choice in (step, url)) + (model is not None and step is None and url is None) != 1:
        raise ConfigError("say what to trace", remedy="Give one of --step N, --url U or --model M.")
    store = open_store(workspace)
    if step is not None:
        pretrain = store.resolve(model or "pretrain", label)
        _trace_step(pretrain, _shards_of(store, pretrain), step, rank, json)
    elif url is not None:
        trained = store.resolve(model, label) if model else store.get_ref("pretrain", label)
        _trace_url(trained, _shards_of(store, trained) if trained else store.resolve("shards", label), url, json)
    else:
        view = lineage_json(model_dataset(store, str(model), label))
        if json:
            print_json(view)
        else:
            _show_lineage(view)


def _shards_of(store: Store, pretrain: Dataset) -> Dataset:
    record = next((record for record in pretrain.manifest.inputs if record.name == "shards"), None)
    shards = store.find(record.name, record.fingerprint) if record else None
    if shards is None:
        raise InputError(
            f"the shards behind {pretrain.name} are not in the store",
            where=pretrain.root,
            remedy="Name a pretraining dataset whose shards are still there.",
        )
    return shards


def _trace_step(pretrain: Dataset, shards: Dataset, step: int, rank: int | None, json: bool) -> None:
    from flows.provenance.trace import trace_step

    view = trace_step(pretrain, shards, step, rank)
    if json:
        print_json(view)
        return
    held = "" if view["applied"] else " (its update was not applied)"
    table = table_of(f"Documents of step {view['step']}{held}", "rank", "source", "url", "archive", "offset", "quality")
    for row in view["documents"]:
        quality = row.get("quality")
        table.add_row(
            str(row["rank"]), row["source"], row["url"] or "", row["archive"], str(row["offset"]),
            f"{quality:.3f}" if quality is not None else "",
        )  # fmt: skip
    console().print(table)


def _trace_url(pretrain: Dataset | None, shards: Dataset, url: str, json: bool) -> None:
    from flows.provenance.trace import trace_url

    view = trace_url(pretrain, shards, url)
    if json:
        print_json(view)
        return
    out = console()
    out.print(f"{view['url']}", markup=False)
    if not view["shards"]:
        out.print("  no token shard holds it; headwater why tells what became of it")
        return
    for shard in view["shards"]:
        out.print(f"  {shard}", markup=False)
    steps = ", ".join(map(str, view["steps"])) or "none"
    out.print(f"  steps: {steps if pretrain else 'no model was trained on these shards yet'}")


def _show_lineage(view: dict[str, object]) -> None:
    out = console()
    out.print(f"[bold]{view['model']}[/] was made from")
    for node in view["datasets"]:  # type: ignore[attr-defined]
        if not node["present"]:
            out.print(f"  {node['name']}/{node['fingerprint']} (no longer in the store)")
            continue
        uses = ", ".join(f"{record['name']}/{record['fingerprint']}" for record in node["inputs"])
        line = f"  {node['name']}/{node['fingerprint']}  digest {node['digest'][:12]}"
        out.print(line + (f"  from {uses}" if uses else ""))
