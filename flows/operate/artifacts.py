"""What a run shows in the Prefect UI: its plan, progress, funnel, samples and lineage, as artifacts.

Artifacts are for looking at. The store holds the truth, so everything here is best effort: a server that goes away
costs the picture and never the run. Sizes are capped, because artifacts live in the server's database.
"""

import contextvars
import html
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.operate.report_pages import link_to, served
from flows.provenance.funnel import funnel
from flows.provenance.notices import extent, missing, warnings
from flows.provenance.samples import dropped_samples, kept_samples
from flows.report import PAGE
from infra.planning import StagePlan
from infra.progress import describe_progress
from infra.store.ancestry import ancestry
from infra.store.dataset import Dataset
from infra.store.store import Store

TABLE_ROWS = 200
MARKDOWN_BYTES = 64_000
SAMPLE_CHARACTERS = 500
SAMPLES = 5
PROGRESS_EVERY_S = 5.0
PROGRESS_STEP = 1.0
LOG_EVERY_S = 30.0
LOG_STRETCH = 0.05
MESSAGES = 20
NOT_PUBLISHED = ("failed", "interrupted")
"""What the runner calls the end of a stage that has published nothing."""
DRAIN_S = 3.0

log = logging.getLogger("headwater")
Logger = logging.Logger | logging.LoggerAdapter[Any]


def artifact_key(*parts: str) -> str:
    """Prefect allows lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


# ---- while a stage runs ---------------------------------------------------------------------------------------------


@dataclass
class LogReporter:
    """Messages and now and then the progress, in the flow run's own log.

    Its lines are rows in the server's database: after ``MESSAGES`` of a stage (a thousand units that failed) the rest is
    counted, and told in one line at the stage's end. The run's ``events.jsonl`` has them all. Progress is told every
    ``every_s``, and less often the longer a stage takes: some 80 lines in five hours, 140 in four days.
    """

    logger: Logger
    every_s: float = LOG_EVERY_S
    _began: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)
    _messages: Counter[str] = field(default_factory=Counter)

    def stage_started(self, stage: str, action: str) -> None:
        self._began = self._last = time.monotonic()
        self.logger.info("%s: %s", stage, action)

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        now = time.monotonic()
        if now - self._last >= max(self.every_s, LOG_STRETCH * (now - self._began)):
            self._last = now
            self.logger.info("%s: %s", stage, describe_progress(done, total, figures, eta))

    def message(self, stage: str, text: str) -> None:
        name = stage.split("/")[0]
        self._messages[name] += 1
        if text.startswith("warning: "):  # seldom, and never left out
            self.logger.warning("%s: %s", stage, text)
        elif self._messages[name] <= MESSAGES:
            self.logger.info("%s: %s", stage, text)

    def stage_ended(self, stage: str, text: str) -> None:
        left = self._messages.pop(stage, 0) - MESSAGES
        more = f" ({left:,} more messages: see the events of this run)" if left > 0 else ""
        if more or text not in NOT_PUBLISHED:  # its sentence follows
            self.logger.info("%s: %s%s", stage, text, more)


@dataclass
class ProgressReporter:
    """One progress artifact a stage (and step), brought up to date at most every few seconds and every percent."""

    every_s: float = PROGRESS_EVERY_S
    _shown: dict[str, tuple[float, float]] = field(default_factory=dict)
    _not_shown: dict[str, tuple[float, str]] = field(default_factory=dict)
    """What a step has reported and was not shown: it is, if nothing comes after it."""
    _publisher: "_Publisher | None" = None

    def stage_started(self, stage: str, action: str) -> None:
        self._show(stage, 0.0, action)

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        percent = 100.0 * done / total if total else 0.0
        now = time.monotonic()
        when, before = self._shown.get(stage, (float("-inf"), float("-inf")))
        text = describe_progress(done, total, figures, eta)
        if percent < 100.0 and (now - when < self.every_s or percent - before < PROGRESS_STEP):
            self._not_shown[stage] = (percent, text)
        else:
            self._show(stage, percent, text)

    def message(self, stage: str, text: str) -> None:
        return

    def stage_ended(self, stage: str, text: str) -> None:
        for step, (percent, figures) in list(self._not_shown.items()):
            self._show(step, percent, figures)
        if text in NOT_PUBLISHED:
            self._show(stage, self._shown[stage][1] if stage in self._shown else 0.0, text)
        else:
            self._show(stage, 100.0, text)
        if self._publisher is not None:
            self._publisher.drain(DRAIN_S)

    def _show(self, stage: str, percent: float, text: str) -> None:
        self._shown[stage] = (time.monotonic(), percent)
        self._not_shown.pop(stage, None)
        self._publisher = self._publisher or _Publisher()
        self._publisher.publish(stage, min(100.0, max(0.0, percent)), text)


class _Publisher:
    """Publishes from a thread of its own, the newest of each stage only.

    A call to a server that is away takes a minute of retries: that must not hold up the driver, which hands out the units.
    """

    def __init__(self) -> None:
        self._pending: dict[str, tuple[float, str]] = {}
        self._artifacts: dict[str, UUID] = {}
        self._busy = False
        self._change = threading.Condition()
        flow_run = contextvars.copy_context()  # artifacts belong to the run in whose context they are made
        threading.Thread(target=flow_run.run, args=(self._serve,), name="progress", daemon=True).start()

    def publish(self, stage: str, percent: float, text: str) -> None:
        with self._change:
            self._pending[stage] = (percent, text)
            self._change.notify_all()

    def drain(self, seconds: float) -> None:
        """Wait until everything is told, but not for long."""
        with self._change:
            self._change.wait_for(lambda: not self._pending and not self._busy, seconds)

    def _serve(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._pending))
                stage = next(iter(self._pending))
                percent, text = self._pending.pop(stage)
                self._busy = True
            best_effort(partial(self._write, stage, percent, text))
            with self._change:
                self._busy = False
                self._change.notify_all()

    def _write(self, stage: str, percent: float, text: str) -> None:
        artifact = self._artifacts.get(stage)
        if artifact is None:
            # Declared as what may be a coroutine; in a synchronous flow it is the value.
            created: Any = create_progress_artifact(percent, key=artifact_key(stage, "progress"), description=text)
            self._artifacts[stage] = created
        else:
            update_progress_artifact(artifact, progress=percent, description=text)


# ---- before and after -----------------------------------------------------------------------------------------------


def best_effort(publish: Callable[[], None]) -> None:
    """Publish an artifact, or say in the log that it could not be."""
    try:
        publish()
    except Exception as error:
        log.warning("an artifact could not be published: %s", error)


def publish_plan(plans: Iterable[StagePlan]) -> None:
    """A table of what the run will do, stage by stage."""
    rows = [
        {
            "stage": plan.stage,
            "action": plan.action.value if plan.selected else f"{plan.action.value} (not selected)",
            "reason": plan.reason,
            "fingerprint": plan.fingerprint or "not known yet",
        }
        for plan in plans
    ]
    create_table_artifact(rows[:TABLE_ROWS], key="plan", description="What this run does, stage by stage, and why.")


def publish_funnel(datasets: Sequence[Dataset]) -> None:
    """Documents by stage, below what is missing from them and what the stages warn of."""
    text = capped("\n\n".join(part for part in (notices_text(datasets), funnel_table(datasets)) if part))
    if text:
        create_markdown_artifact(text, key="funnel", description="Documents in, kept and dropped.")


def funnel_table(datasets: Iterable[Dataset]) -> str:
    """Rows of the artifact: documents by stage, with their rules."""
    rows = funnel(datasets)
    if not rows:
        return ""
    lines = ["| stage | in | kept | | dropped | failed | most by |", "|---|---:|---:|---:|---:|---:|---|"]
    for row in rows[:TABLE_ROWS]:
        dropped = sum(number for _, number in row.dropped)
        most = ", ".join(f"{rule} {number:,}" for rule, number in row.dropped[:5])
        lines.append(
            f"| {row.stage} | {row.incoming:,} | {row.kept:,} | {row.kept_share:.1%} | {dropped:,} | {row.failed:,} | {most} |"
        )
    return "\n".join(lines)


def notices_text(datasets: Iterable[Dataset]) -> str:
    """Files that are missing, and warnings, as Markdown; empty where there is nothing to say."""
    by_name = {dataset.name: dataset for dataset in datasets}
    parts = []
    for each in missing(by_name):
        parts.append(f"## {each.stage} is incomplete: {extent(each)} are missing")
        parts += [f"- {_inline(lost.files)}: {_inline(lost.error)}" for lost in each.lost]
        parts += [f"- and {each.more:,} more"] if each.more else []
        parts += [f"- accepted by `{each.accepted}`"] if each.accepted else []
    warned = warnings(by_name)
    if warned:
        parts.append("## Warnings")
        parts += [f"- **{stage}** {_inline(text)}" for stage, text in warned]
    return "\n".join(parts)


def publish_samples(store: Store, dataset: Dataset) -> None:
    """A few documents kept and dropped by a stage that counts documents."""
    if not dataset.manifest.counts.incoming or not dataset.files("ledger/"):
        return
    parts = [f"# {dataset.name}: a few documents", "## Kept"]
    for row in kept_samples(dataset, SAMPLES):
        if "text" not in row:
            return
        parts += [f"**{_inline(row.get('url') or row['id'].hex())}**", fenced(row["text"])]
    parts.append("## Dropped")
    for row in dropped_samples(store, dataset, None, SAMPLES, quick=True):
        score = f" (score {row['score']:.4g}, threshold {row['threshold']:.4g})" if _scored(row) else ""
        parts.append(f"**{_inline(row.get('url') or row['id'].hex())}**: {_inline(row['rule'])}{score}")
        if row.get("text"):
            parts.append(fenced(row["text"]))
    create_markdown_artifact(capped("\n\n".join(parts)), key=artifact_key(dataset.name, "samples"))


def publish_lineage(dataset: Dataset) -> None:
    """The datasets behind a dataset: as a table, and as a graph for a UI that draws it."""
    create_markdown_artifact(
        capped(f"{lineage_table(dataset)}\n\n```mermaid\n{lineage_graph(dataset)}\n```"),
        key="lineage",
        description=f"Every dataset behind {dataset.name} {dataset.manifest.fingerprint}.",
    )


def lineage_table(dataset: Dataset) -> str:
    """Rows of the artifact: every dataset behind one."""
    lines = ["| dataset | rows | size | made from |", "|---|---:|---:|---|"]
    for node in ancestry(dataset):
        sources = ", ".join(f"{record.name}/{record.fingerprint}" for record in node.manifest.inputs)
        manifest = node.manifest
        size = f"{manifest.bytes / 1e6:,.1f} MB"
        lines.append(f"| {node.name}/{manifest.fingerprint} | {manifest.rows:,} | {size} | {sources or '–'} |")
    return "\n".join(lines)


def publish_report(store: Store, datasets: Mapping[str, Dataset], run: str) -> None:
    """The report of what was made, one click away where the server shows pages; where it does not, the page's place.

    A run whose recipe makes no report, or that did not come so far, leaves a page of what there is below ``reports/``.
    """
    from flows.report.page import leave_page  # Jinja and the drawings: only where a page is written

    report = datasets.get("report")
    name, place = (report.manifest.fingerprint, report.url(PAGE)) if report else (run, leave_page(store, datasets, run))
    command = f"headwater report {run}"
    api = os.environ.get("PREFECT_API_URL")
    if api and served(api, name):
        create_link_artifact(link_to(name), link_text="Open the report", key="report", description=f"Or: {command}")
    else:
        create_markdown_artifact(f"The report is at `{place}`; `{command} --to FILE` copies it.", key="report")


def lineage_graph(dataset: Dataset) -> str:
    """The same as a Mermaid graph."""
    lines = ["graph LR"]
    nodes = ancestry(dataset)
    for node in nodes:
        name = f"{node.name}_{node.manifest.fingerprint}"
        lines.append(f'  {name}["{node.name}<br/>{node.manifest.fingerprint}<br/>{node.manifest.rows:,} rows"]')
    for node in nodes:
        for record in node.manifest.inputs:
            lines.append(f"  {record.name}_{record.fingerprint} --> {node.name}_{node.manifest.fingerprint}")
    return "\n".join(lines)


def fenced(text: str) -> str:
    """Foreign text as a code block that it cannot close: the fence is longer than any run of backticks in it."""
    shown = text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else "")
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def capped(markdown: str) -> str:
    """Text that fits into an artifact."""
    encoded = markdown.encode()
    if len(encoded) <= MARKDOWN_BYTES:
        return markdown
    return encoded[:MARKDOWN_BYTES].decode(errors="ignore") + "\n\n… cut here; the dataset holds the rest."


def _inline(text: str) -> str:
    """Foreign text inside a line: no markup."""
    return html.escape(re.sub(r"([\\`*_\[\]|!#])", r"\\\1", " ".join(text.split())[:300]))


def _scored(row: Mapping[str, Any]) -> bool:
    return row.get("score") is not None and row.get("threshold") is not None
