"""``headwater inspect``: what is in a dataset, and what it left out."""

from dataclasses import asdict
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.table import Table
from rich.text import Text

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, plain, print_json, table_of
from flows.provenance.attributes import Measured, histogram, threshold
from flows.provenance.drop_rates import TOLERANCE, rate_changes
from flows.provenance.funnel import funnel_by_source, languages_through
from flows.provenance.notices import notice_lines
from flows.provenance.samples import dropped_samples, failed_rules, kept_samples
from flows.stages import document_stages, holds_documents
from infra.errors import ConfigError
from infra.store.dataset import Dataset
from infra.store.store import Store

_PATIENCE = 60.0
"""Seconds; a page of the server waits less."""
SHOWN_EXAMPLES = 5


def command(
    dataset: Annotated[str | None, typer.Argument(help="name, name@label, name/fingerprint, or a folder.")] = None,
    stage: Annotated[str | None, typer.Option(help="The same, by stage name.")] = None,
    rule: Annotated[str | None, typer.Option(help="Show only what this rule dropped.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="How many documents to show, kept and dropped.")] = 3,
    attribute: Annotated[
        str | None, typer.Option(help="How this attribute is distributed among the documents of attributes or quality.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="What a threshold here would take, and the line of YAML for it.")
    ] = None,
    keep: Annotated[str, typer.Option(help="above or below the threshold; of categories, is or is_not.")] = "above",
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    name = dataset or stage
    if name is None:
        raise ConfigError("no dataset is named", remedy="Write headwater inspect quality, or --stage quality.")
    store = open_store(workspace)
    found = store.resolve(name, label)
    if attribute is not None:
        measured = measured_behind(store, found, label)
        view = (
            threshold(measured, attribute, at, keep, _PATIENCE)
            if at
            else histogram(measured, attribute, seconds=_PATIENCE)
        )
        print_json(view) if json else _show_attribute(view)
        return
    view = {
        **describe(found),
        **groups(store, found),
        "kept_samples": [] if rule else kept_samples(found, sample) if sample else [],
        "dropped_samples": dropped_samples(store, found, rule, sample) if sample else [],
    }
    known = [*view["dropped"], *view["failed_by"]]
    if rule and rule not in known:
        remedy = f"Its rules: {', '.join(known)}." if known else "It kept everything."
        raise ConfigError(f"{found.name} dropped nothing by a rule {rule!r}", remedy=remedy)
    if json:
        print_json(view)
    else:
        _show(found, view)


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
        "failed_by": failed_rules(dataset),
        "complete": manifest.complete,
        "units": manifest.units.total,
        "failed_units": [unit.model_dump() for unit in manifest.units.failed],
        "warnings": manifest.warnings,
        "files": [output.as_dict() for output in manifest.outputs],
        "inputs": [record.model_dump() for record in manifest.inputs],
        "stats": manifest.stats,
        "config": manifest.config,
        "provenance": manifest.provenance.model_dump(),
    }


def groups(store: Store, dataset: Dataset) -> dict[str, Any]:
    """What a document stage kept of each source and language, and whether its drop rates moved."""
    if not holds_documents(dataset):
        return {}
    moved = rate_changes(store, dataset, TOLERANCE)
    arrived = _arrived(store, dataset)
    return {
        "by_source": [asdict(row) for row in funnel_by_source([dataset])],
        "by_language": [asdict(row) for row in languages_through(arrived, dataset)] if arrived else [],
        "drift": asdict(moved) if moved else None,
    }


def _arrived(store: Store, dataset: Dataset) -> Dataset | None:
    """The dataset whose languages a stage received: the attributes, or the stage before."""
    for record in dataset.manifest.inputs:
        if record.name == "ingest" or (dataset.kind == "quality" and record.name != "attributes"):
            continue
        found = store.find(record.name, record.fingerprint)
        if found is not None and (record.name == "attributes" or holds_documents(found)):
            return found
    return None


def measured_behind(store: Store, dataset: Dataset, label: str) -> Measured:
    """The attributes that a dataset is or was selected by, with the selection. Raises ConfigError for any other dataset."""
    inputs = [store.find(record.name, record.fingerprint) for record in dataset.manifest.inputs]
    known = [each for each in inputs if each is not None]
    if dataset.kind == "quality":
        attributes = next((each for each in known if each.kind == "attributes"), None)
        return Measured.among(attributes, [*known, dataset])
    if dataset.kind != "attributes":
        raise ConfigError(
            f"{dataset.name} neither holds attributes nor selects by them",
            where="--attribute",
            remedy="Name attributes or quality.",
        )
    return Measured.among(dataset, [*known, *document_stages(store, label)])


def _show_attribute(view: dict[str, Any]) -> None:
    out = console()
    if "bins" in view:
        most = max((row["kept"] + row["dropped"] for row in view["bins"]), default=0)
        table = table_of("", view["attribute"], ">kept", ">dropped", "")
        for row in view["bins"]:
            bar = "█" * round(40 * (row["kept"] + row["dropped"]) / most)
            value = row["value"] if "value" in row else f"{row['low']:.4g} – {row['high']:.4g}"
            table.add_row(Text(value), f"{row['kept']:,}", f"{row['dropped']:,}", bar)
        out.print(table)
        out.print(f"{view['undefined']:,} of {view['looked_at']:,} documents have none")
    else:
        out.print(
            f"{view['expression']}: {view['goes']:,} of the documents that are kept today would go, {view['stays']:,} would "
            f"stay; {view['already']:,} are dropped anyway",
            markup=False,
        )
        for row in view["examples"][:SHOWN_EXAMPLES]:
            out.print(f"  {row['value']}  {row.get('url') or row['id']}", markup=False)
        out.print(view["yaml"], markup=False)
        if view["note"]:
            out.print(view["note"], style="yellow", markup=False)
    if view["partial"]:
        out.print(f"read {view['looked_at']:,} of {view['of']:,} documents: time was over", style="yellow")


def _show(found: Dataset, view: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{view['name']}[/] {view['fingerprint']}  digest {view['digest'][:12]}")
    out.print(f"{view['root']}", markup=False)
    out.print(
        f"in {view['incoming']:,} = kept {view['kept']:,} + dropped {sum(view['dropped'].values()):,} "
        f"+ failed {view['failed']:,}; {len(view['files'])} files"
    )
    for line in notice_lines([found]):
        out.print(line, style="yellow", markup=False)
    for heading, rules in (("dropped by", view["dropped"]), ("failed by", view["failed_by"])):
        if rules:
            out.print(_rule_table(heading, rules))
    if "lsh" in view["stats"]:
        _show_lsh(view["stats"])
    for group in ("source", "language"):
        if view.get(f"by_{group}"):
            out.print(_group_table(group, view[f"by_{group}"]))
    if view.get("drift"):
        _show_drop_rates(view["drift"])
    for kind, names in view["stats"].get("unseen", {}).items():
        if isinstance(names, dict):
            out.print(_rule_table(f"no text from {kind}", dict(list(names.items())[:12])))
    if view["schema"]:
        out.print("columns: " + ", ".join(f"{name} {kind}" for name, kind in view["schema"].items()), markup=False)
    for row in view["kept_samples"]:
        _show_sample("kept", row)
    for row in view["dropped_samples"]:
        _show_sample(f"{row['verdict']} by {row['rule']}", row)


def _rule_table(heading: str, rules: dict[str, int]) -> Table:
    table = table_of("", heading, ">records")
    for rule, number in rules.items():
        table.add_row(rule, f"{number:,}")
    return table


def _show_lsh(stats: dict[str, Any]) -> None:
    """How likely dedup's setting was to find a pair, and what verification said of those it found."""
    lsh, verification = stats["lsh"], stats["verification"]
    out = console()
    out.print(
        f"MinHash-LSH {lsh['bands']} × {lsh['rows']}: {verification['pairs']:,} pairs nominated, "
        f"{verification['rejected']:,} of them below {lsh['measure']} {lsh['threshold']:g}"
    )
    curve = [point for point in lsh["curve"] if 0.5 <= point["similarity"] < 1]
    table = table_of("")
    for name, key, form in (("at", "similarity", ".2f"), ("found", "probability", ".3f")):
        table.add_row(name, *(f"{point[key]:{form}}" for point in curve))
    table.show_header = False
    out.print(table)


def _group_table(heading: str, rows: list[dict[str, Any]], limit: int = 12) -> Table:
    table = table_of("", f"by {heading}", ">in", ">kept", ">")
    for row in rows[:limit]:
        share = f"{row['kept'] / row['incoming']:.0%}" if row["incoming"] else ""
        table.add_row(row["group"], f"{row['incoming']:,}", f"{row['kept']:,}", share)
    if len(rows) > limit:
        table.add_row(f"and {len(rows) - limit} more", "", "", "")
    return table


def _show_drop_rates(moved: dict[str, Any]) -> None:
    out = console()
    if not moved["changes"]:
        out.print(f"drop rates are as in the snapshot before ({moved['previous']})", markup=False)
    for change in moved["changes"]:
        aside = "; its settings changed too" if moved["settings_changed"] else ""
        out.print(
            f"warning: {change['source']}: {change['rule']} drops {change['now']:.1%} of the documents, "
            f"{change['before']:.1%} in the snapshot before ({moved['previous']}{aside})",
            markup=False,
        )


def _show_sample(title: str, row: dict[str, Any], limit: int = 400) -> None:
    text = row.get("text")
    place = row.get("url") or (row["id"].hex() if isinstance(row.get("id"), bytes) else "")
    out = console()
    out.print(f"\n[bold]{title}[/] ", end="")
    out.print(plain(place), markup=False)
    date = "captured" if row.get("date") == row.get("captured") else "date"
    about = [f"{name} {row[name]}" for name in ("title", "author", date, "license") if row.get(name)]
    if about:
        out.print(plain("    " + "; ".join(about)), style="dim", markup=False)
    if text is not None:
        out.print(plain("    " + " ".join(text[:limit].split())), markup=False)
    elif row.get("detail"):
        out.print(plain("    " + str(row["detail"])), markup=False)
