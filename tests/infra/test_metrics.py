"""Metrics are off unless asked for, say what a run reports, and never stop it."""

import dataclasses
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.errors import ConfigError
from infra.metrics import MetricsReporter, with_metrics
from infra.progress import PlainReporter
from tests.infra.run_toy import context, run_both
from tests.infra.toy import NumbersConfig
from tests.support import InProcessExecutor


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(metric, stage, further label values) -> value"""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            others = [value for name, value in sorted(sample.labels.items()) if name != "stage" and value]
            found[(sample.name, sample.labels["stage"], *others)] = sample.value
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nothing_is_served_unless_asked_for() -> None:
    plain = PlainReporter()
    assert with_metrics(plain, {}) is plain


def test_a_run_is_scraped_and_written(tmp_path: Path) -> None:
    port = free_port()
    environment = {"HEADWATER_METRICS_PORT": str(port), "HEADWATER_METRICS_FOLDER": str(tmp_path / "prom")}
    run = context(tmp_path / "ws")
    run = dataclasses.replace(run, executor=InProcessExecutor(), reporter=with_metrics(run.reporter, environment))
    run_both(run, NumbersConfig(files=3))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        served = samples(answer.read().decode())
    assert served["headwater_documents", "squares", "received", "square"] == 30
    assert served["headwater_documents", "squares", "kept", "square"] == 15
    assert served["headwater_units", "numbers", "done"] == 3
    assert served["headwater_bytes_done", "squares", "split"] == served["headwater_bytes_total", "squares", "split"] > 0
    assert served["headwater_stage_ends_total", "numbers", "published"] == 1
    assert served["headwater_stage_running", "squares"] == 0 < served["headwater_stage_seconds", "squares"]
    written = {path.name: samples(path.read_text()) for path in (tmp_path / "prom").iterdir()}
    assert set(written) == {"headwater-numbers.prom", "headwater-squares.prom"}
    assert written["headwater-numbers.prom"]["headwater_documents", "numbers", "kept"] == 30


def test_training_figures_have_names_of_their_own(tmp_path: Path) -> None:
    reporter = MetricsReporter(tmp_path)
    reporter.stage_started("pretrain", "RUN")
    reporter.progress("pretrain", 10, 40, {"loss": 3.5, "tokens_per_s": 1000, "lr": 0.1, "task": "x"}, None)
    reporter.stage_ended("pretrain", "failed")
    said = samples((tmp_path / "headwater-pretrain.prom").read_text())
    assert said["headwater_loss", "pretrain"] == 3.5 and said["headwater_tokens_per_second", "pretrain"] == 1000
    assert said["headwater_steps_done", "pretrain"] == 10 and said["headwater_figure", "pretrain", "lr"] == 0.1
    assert said["headwater_stage_ends_total", "pretrain", "failed"] == 1


def test_failed_units_are_counted(tmp_path: Path) -> None:
    reporter = MetricsReporter(tmp_path)
    run = context(tmp_path / "ws", max_failed_fraction=0.5)
    run = dataclasses.replace(run, executor=InProcessExecutor(), reporter=reporter)
    run_both(run, NumbersConfig(broken_units=1))
    assert samples((tmp_path / "headwater-numbers.prom").read_text())["headwater_units", "numbers", "failed"] == 1


def test_a_port_in_use_costs_the_metrics_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with_metrics(PlainReporter(), {"HEADWATER_METRICS_PORT": str(taken.getsockname()[1])})
    assert "no metrics are served" in caplog.text


def test_a_wrong_port_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="is no port"):
        with_metrics(PlainReporter(), {"HEADWATER_METRICS_PORT": "http"})
