"""``headwater inspect``: what is in a dataset, and what it left out."""

from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.table import Table

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json
from flows.samples import dropped_samples, kept_samples
from infra.errors import ConfigError
from infra.store.dataset import Dataset


def command(
    dataset: Annotated[str | None, typer.Argument(help="name, name@label, name/fingerprint, or a folder.")] = None,
    stage: Annotated[str | None, typer.Option(help="The same, by stage name.")] = None,
    rule: Annotated[str | None, typer.Option(help="Show only what this rule dropped.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="How many documents to show, kept and dropped.")] = 3,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    name = dataset or stage
    if name is None:
        raise ConfigError("no dataset is named", remedy="Write headwater inspect quality, or --stage quality.")
    store = open_store(workspace)
    found = store.resolve(name, label)
    view = {
        **describe(found),
        "kept_samples": [] if rule else kept_samples(found, sample) if sample else [],
        "dropped_samples": dropped_samples(store, found, rule, sample) if sample else [],
    }
    if rule and rule not in view["dropped"]:
        raise ConfigError(
            f"{found.name} dropped nothing by a rule {rule!r}", remedy=f"Its rules: {', '.join(view['dropped'])}."
        )
    if json:
        print_json(view)
    else:
        _show(view)


def describe(dataset: Dataset) -> dict[str, Any]:
    """The dataset in figures: schema, counts, files, provenance."""
    manifest = dataset.manifest
    tables = [output for output in dataset.files("data/", ".parquet") if ".lineage." not in output.path]
    schema = pq.read_schema(dataset.local(tables[0].path)) if tables else None
    return {
        "name": dataset.name,
        "fingerprint": manifest.fingerprint,
        "digest": manifest.output_digest,
        "root": dataset.root,
        "schema": {field.name: str(field.type) for field in schema} if schema else {},
        "incoming": manifest.counts.incoming,
        "kept": manifest.counts.kept,
        "dropped": dict(sorted(manifest.counts.dropped.items(), key=lambda item: -item[1])),
        "failed": manifest.counts.failed,
        "failed_units": [unit.model_dump() for unit in manifest.units.failed],
        "files": [output.as_dict() for output in manifest.outputs],
        "inputs": [record.model_dump() for record in manifest.inputs],
        "stats": manifest.stats,
        "config": manifest.config,
        "provenance": manifest.provenance.model_dump(),
    }


def _show(view: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{view['name']}[/] {view['fingerprint']}  digest {view['digest'][:12]}")
    out.print(f"{view['root']}", markup=False)
    out.print(
        f"in {view['incoming']:,} = kept {view['kept']:,} + dropped {sum(view['dropped'].values()):,} "
        f"+ failed {view['failed']:,}; {len(view['files'])} files"
    )
    if view["dropped"]:
        table = Table(box=None, pad_edge=False)
        table.add_column("dropped by")
        table.add_column("records", justify="right")
        for rule, number in view["dropped"].items():
            table.add_row(rule, f"{number:,}")
        out.print(table)
    if view["schema"]:
        out.print("columns: " + ", ".join(f"{name} {kind}" for name, kind in view["schema"].items()), markup=False)
    for row in view["kept_samples"]:
        _show_sample("kept", row)
    for row in view["dropped_samples"]:
        _show_sample(f"{row['verdict']} by {row['rule']}", row)


def _show_sample(title: str, row: dict[str, Any], limit: int = 400) -> None:
    text = row.get("text")
    place = row.get("url") or (row["id"].hex() if isinstance(row.get("id"), bytes) else "")
    out = console()
    out.print(f"\n[bold]{title}[/] ", end="")
    out.print(place, markup=False)
    if text is not None:
        out.print("    " + " ".join(text[:limit].split()), markup=False)
    elif row.get("detail"):
        out.print("    " + str(row["detail"]), markup=False)
