"""A lab's page: verdicts, differences by task, loss curves, what each arm kept, documents to read. One self-contained file.

reports/lab-<lab>.html     in the workspace, where its server shows it
"""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from flows.ablate.corpora import Corpus
from flows.ablate.differences import Difference, difference
from flows.ablate.lab import SAME, Lab
from flows.ablate.trials import Measured
from flows.provenance.funnel import funnel
from flows.report import FOLDER
from flows.report.learning import curve, metrics_of
from flows.report.page import as_bytes, template
from infra.store.files import write_bytes
from infra.store.store import Store
from pipeline.charts import Line, colours_of, interval_bar, line_chart, smooth
from training.comparison import ALL

Row = dict[str, Any]


def leave_lab_page(
    store: Store, view: Row, lab: Lab, corpora: Mapping[str, Corpus], measured: Sequence[Measured]
) -> str:
    """Write the page into the workspace; returns its address. ``view`` is what the command's JSON says."""
    address = f"{store.address}/{FOLDER}/{lab.label()}.html"
    write_bytes(address, as_bytes(render(store.address, view, lab, corpora, measured)))
    return address


def render(workspace: str, view: Row, lab: Lab, corpora: Mapping[str, Corpus], measured: Sequence[Measured]) -> str:
    colours = colours_of(lab.trained)
    others = [arm for arm in lab.trained if arm not in (lab.baseline, SAME)]
    return template("lab.html.j2").render(
        view=view,
        lab=lab,
        about={name: _about(lab, name) for name in lab.trained},
        colours=colours,
        verdicts=_with_bars(view["verdicts"]),
        disagreeing=disagreeing(view),
        tasks=_forests(view),
        curves=loss_curves(lab, measured, colours),
        corpora=[_kept(lab, corpora, row) for row in view["arms"] if row["arm"] != SAME],
        differences=[_both_ways(lab, corpora, arm, workspace) for arm in others],
        models=[_model(each) for each in measured],
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(_newest(measured))),
        workspace=workspace,
    )


def _newest(measured: Sequence[Measured]) -> float:
    return max(each.items.manifest.provenance.ended for each in measured)


def _about(lab: Lab, name: str) -> str:
    """One line on an arm."""
    if name == SAME:
        return f"A/A: the corpus of {lab.baseline} with other seeds; what differs here is chance"
    arm = lab.config.arms.get(name)
    said = arm.description if arm else "nothing filtered"
    roles = {lab.baseline: "the baseline", lab.control: "the known-bad control"}
    return ": ".join(filter(None, [roles.get(name, ""), said]))


# ---- differences ----------------------------------------------------------------------------------------------------


def _with_bars(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with its interval on a scale that they share; 0 is no difference."""
    reach = max([abs(row[end]) for row in rows for end in ("low", "high")] + [1e-6]) * 1.05
    return [
        {**row, "bar": interval_bar(row["delta"], row["low"], row["high"], (-reach, reach), mark=0.0)} for row in rows
    ]


def disagreeing(view: Row) -> list[str]:
    """Arms that one learning rate calls better and another worse."""
    found = {row["arm"]: [delta for _, delta in row["by_rate"]] for row in view["effects"] if row["task"] == ALL}
    return [arm for arm, deltas in found.items() if arm != SAME and min(deltas) < 0 < max(deltas)]


def _forests(view: Row) -> list[tuple[str, bool, list[Row]]]:
    """(task, whether it is a coin flip, its rows); all tasks together come first."""
    tasks = list(dict.fromkeys(row["task"] for row in view["effects"]))
    ordered = [ALL, *(task for task in tasks if task != ALL)]
    return [
        (task, task in view["coin_flips"], _with_bars([row for row in view["effects"] if row["task"] == task]))
        for task in ordered
    ]


# ---- curves ---------------------------------------------------------------------------------------------------------


def loss_curves(lab: Lab, measured: Sequence[Measured], colours: Mapping[str, str]) -> list[tuple[float, Markup]]:
    """For each rate the training loss of every arm: the mean over seeds, in a band from the least to the most."""
    charts = []
    for rate in lab.config.rates:
        lines = []
        for arm in lab.trained:
            trials = [each for each in measured if each.trial.arm == arm and each.trial.rate == rate]
            curves = [dict(smooth(curve(metrics_of(each.model), "loss"))) for each in trials]
            steps = sorted(set.intersection(*(set(each) for each in curves)))
            values = [(step, [each[step] for each in curves]) for step in steps]
            lines.append(
                Line(
                    arm,
                    [(step, fmean(losses)) for step, losses in values],
                    colours[arm],
                    dashed=arm == SAME,
                    band=[(step, min(losses), max(losses)) for step, losses in values],
                )
            )
        chart = line_chart(
            lines, x="step", y="nats a token", describe=f"Training loss by arm at a learning rate of {rate:g}"
        )
        charts.append((rate, chart))
    return charts


# ---- corpora --------------------------------------------------------------------------------------------------------


def _kept(lab: Lab, corpora: Mapping[str, Corpus], row: Row) -> Row:
    """An arm's figures, and what each of its stages dropped by which rules."""
    datasets = corpora[row["arm"]].datasets
    return {
        **row,
        "stages": funnel(datasets.values()),
        "shards": f"shards/{datasets['shards'].manifest.fingerprint}",
        "label": lab.label(row["arm"]),
    }


def _both_ways(lab: Lab, corpora: Mapping[str, Corpus], arm: str, workspace: str) -> tuple[Difference, Difference]:
    return (
        difference(lab, corpora, arm, lab.baseline, workspace),
        difference(lab, corpora, lab.baseline, arm, workspace),
    )


def _model(measured: Measured) -> Row:
    trial, stats = measured.trial, measured.model.manifest.stats
    return {
        "arm": trial.arm,
        "seed": trial.config.seed,
        "rate": trial.rate,
        "tokens": stats["tokens"],
        "loss": stats["loss_last"],
        "model": f"pretrain/{measured.model.manifest.fingerprint}",
        "items": f"{measured.items.name}/{measured.items.manifest.fingerprint}",
    }
