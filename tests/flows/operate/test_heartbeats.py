"""A flow run's end does not wait for the thread that tells of its life; the thread ends all the same."""

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow_engine

from flows.operate.heartbeats import leave_heartbeats_behind
from tests.flows.cluster import wait_for


@dataclass
class Engine:
    """What Prefect's heartbeat asks of a flow run's engine."""

    heartbeat_seconds: int = 30
    flow_run: None = None
    logger: Any = field(default_factory=lambda: SimpleNamespace(debug=lambda *text, **options: None))
    beats: int = 0

    def _build_heartbeat_event_template(self) -> tuple[dict[str, str], list[str]]:
        return {}, []

    def _emit_flow_run_heartbeat(self, resource: object, related: object) -> None:
        self.beats += 1


def test_the_end_does_not_wait_for_a_sleeping_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_engine, "_send_heartbeats", flow_engine._send_heartbeats)  # put back afterwards
    before, ends = threading.active_count(), []
    for _ in range(3):
        leave_heartbeats_behind()
        engine: Any = Engine()
        with flow_engine._send_heartbeats(engine):
            wait_for(lambda engine=engine: engine.beats == 1, 5, "a heartbeat")  # type: ignore[misc]
            began = time.monotonic()
        ends.append(time.monotonic() - began)
    assert max(ends) < 0.25, "the thread sleeps for a second after its beat"
    wait_for(lambda: threading.active_count() <= before, 5, "the threads to end")
    assert engine.beats == 1
