"""Metrics for Prometheus, off unless asked for.

| variable | what it does |
|---|---|
| ``HEADWATER_METRICS_PORT`` | serve ``/metrics`` on this port while a run lasts |
| ``HEADWATER_METRICS_HOST`` | on this address instead of the loopback interface |
| ``HEADWATER_METRICS_FOLDER`` | write ``headwater-<stage>.prom`` there, for node_exporter's textfile collector |

They are fed by what a run reports anyway (``infra.progress``), in the driver, so workers and training ranks pay nothing.
A run is a process of its own: where several share a machine the port is the first one's, and the folder takes them all.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from infra.progress import Reporter, Reporters

PORT, HOST, FOLDER = "HEADWATER_METRICS_PORT", "HEADWATER_METRICS_HOST", "HEADWATER_METRICS_FOLDER"
WRITE_EVERY_S = 5.0

GAUGES = {
    "documents": "Documents of the stage, by what became of them.",
    "units": "Units of work finished, by how they ended.",
    "bytes_done": "Bytes of input worked through, of a stage made of units.",
    "bytes_total": "Bytes of input in all, of a stage made of units.",
    "steps_done": "Steps done, of a stage that is a job.",
    "steps_total": "Steps in all, of a stage that is a job.",
    "tokens_per_second": "Training speed.",
    "loss": "Training loss.",
    "figure": "Any other number the stage reports, by name.",
    "stage_seconds": "How long the stage has been in work; when it has ended, how long it took.",
    "stage_running": "1 while the stage is in work.",
    "reported_timestamp_seconds": "When the stage last reported anything.",
}
COUNTERS = {"stage_ends": "How often the stage ended, by how."}
DOCUMENTS = {"documents": "received", "kept": "kept", "failed": "failed"}
UNITS = {"units": "done", "failed_units": "failed"}

log = logging.getLogger("headwater")
Labels = tuple[tuple[str, str], ...]


@dataclass
class MetricsReporter:
    """A reporter that remembers the last value of everything; ``collect`` is what Prometheus asks for."""

    folder: Path | None = None
    _values: dict[tuple[str, str, Labels], float] = field(default_factory=dict)
    """(metric, stage, further labels) -> value"""
    _started: dict[str, float] = field(default_factory=dict)
    _written: dict[str, float] = field(default_factory=dict)

    # -- what a run tells -----------------------------------------------------------------------------------------

    def stage_started(self, stage: str, action: str) -> None:
        self._started[stage] = time.time()
        self._set("stage_running", stage, 1.0)
        self._reported(stage, write=True)

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        name, _, step = stage.partition("/")
        where = {"step": step} if step else {}
        kind = "bytes" if "units" in figures else "steps"
        self._set(f"{kind}_done", name, done, **where)
        self._set(f"{kind}_total", name, total, **where)
        for figure, value in figures.items():
            if isinstance(value, (int, float)):
                self._figure(name, figure, float(value), where)
        self._reported(name)

    def message(self, stage: str, text: str) -> None:
        self._reported(stage.partition("/")[0])

    def stage_ended(self, stage: str, text: str) -> None:
        state = text if text in ("failed", "interrupted") else "published"
        key = ("stage_ends", stage, (("state", state),))
        self._values[key] = self._values.get(key, 0.0) + 1.0
        self._set("stage_running", stage, 0.0)
        self._reported(stage, write=True)

    def _figure(self, stage: str, figure: str, value: float, where: Mapping[str, str]) -> None:
        if figure in DOCUMENTS:
            self._set("documents", stage, value, fate=DOCUMENTS[figure], **where)
        elif figure in UNITS:
            self._set("units", stage, value, state=UNITS[figure], **where)
        elif figure == "tokens_per_s":
            self._set("tokens_per_second", stage, value)
        elif figure == "loss":
            self._set("loss", stage, value)
        else:
            self._set("figure", stage, value, name=figure)

    def _set(self, metric: str, stage: str, value: float, **labels: str) -> None:
        self._values[metric, stage, tuple(sorted(labels.items()))] = value

    def _reported(self, stage: str, write: bool = False) -> None:
        now = time.time()
        self._set("reported_timestamp_seconds", stage, now)
        if self._values.get(("stage_running", stage, ())) or write:
            self._set("stage_seconds", stage, now - self._started.get(stage, now))
        if self.folder is not None and (write or now - self._written.get(stage, 0.0) >= WRITE_EVERY_S):
            self._written[stage] = now
            self._write(stage, self.folder)

    # -- what Prometheus asks -------------------------------------------------------------------------------------

    def collect(self, stage: str | None = None) -> Iterator[Any]:
        """Every metric as Prometheus knows it; of one stage, or of all."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        # A scrape comes in another thread while the run goes on.
        values = {key: value for key, value in dict(self._values).items() if stage in (None, key[1])}
        for family, texts in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for metric, text in texts.items():
                found = {key: value for key, value in values.items() if key[0] == metric}
                names = ["stage", *sorted({name for _, _, labels in found for name, _ in labels})]
                answer = family(f"headwater_{metric}", text, labels=names)
                for (_, of, labels), value in sorted(found.items()):
                    known = {"stage": of, **dict(labels)}
                    answer.add_metric([known.get(name, "") for name in names], value)
                if found:
                    yield answer

    def _write(self, stage: str, folder: Path) -> None:
        from prometheus_client import write_to_textfile

        folder.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(folder / f"headwater-{stage}.prom"), _Registry(lambda: self.collect(stage)))


@dataclass(frozen=True)
class _Registry:
    """All that Prometheus' writers want of a registry."""

    collect: Callable[[], Iterator[Any]]

    def restricted_registry(self, names: Any) -> "_Registry":
        return self


def with_metrics(reporter: Reporter, environment: Mapping[str, str] = os.environ) -> Reporter:
    """The reporter, and beside it the metrics that the environment asks for. Raises ConfigError."""
    port, folder = environment.get(PORT), environment.get(FOLDER)
    if not port and not folder:
        return reporter
    try:
        import prometheus_client
    except ImportError:
        raise ConfigError(
            "metrics need the package prometheus-client",
            remedy=f"pip install 'headwater[metrics]', or unset {PORT} and {FOLDER}.",
        ) from None
    metrics = MetricsReporter(Path(folder) if folder else None)
    if port:
        host = environment.get(HOST, "127.0.0.1")
        try:
            registry: Any = _Registry(metrics.collect)
            prometheus_client.start_http_server(_number(port), host, registry)
        except OSError as error:
            # Another run's metrics are there already, or the address is not ours: no reason to stop the work.
            log.warning("no metrics are served at %s:%s: %s", host, port, error.strerror or error)
    return Reporters([reporter, metrics])


def _number(port: str) -> int:
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{port!r} is no port", where=PORT, remedy="Give a number from 1 to 65535, or unset it.")
    return int(port)
