"""A parent that is ended while its child runs: cancelled, it cancels the child at once; otherwise the child goes on."""

import logging
import os
import tempfile
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect.states import Cancelled, Cancelling, Running, State

from flows.operate import children


class Ended(BaseException):
    """The signal that ends a flow run's process, as it arrives in the flow."""


class FakeServer:
    """As much of a client as a parent needs."""

    def __init__(self, parent: State[Any] | None) -> None:
        self.parent = parent
        self.child = uuid4()
        self.asked: dict[UUID, State[Any]] = {}

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read_flow_run(self, run: UUID) -> Any:
        if self.parent is None:
            raise httpx.ConnectError("the server is away")
        return SimpleNamespace(state=self.parent)

    def read_flow_run_states(self, run: UUID) -> list[Any]:
        return [Running()]

    def set_flow_run_state(self, run: UUID, state: State[Any]) -> None:
        self.asked[run] = state


@pytest.mark.parametrize(
    ("parent", "cancelled"), [(Cancelling(), True), (Cancelled(), True), (Running(), False), (None, False)]
)
def test_only_a_cancelled_parent_takes_its_child_along(
    parent: State[Any] | None, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer(parent)

    def interrupted(*_: object) -> None:
        raise Ended

    monkeypatch.setattr(children, "get_client", lambda **_: server)
    monkeypatch.setattr(children, "get_run_logger", lambda: logging.getLogger("headwater"))
    monkeypatch.setattr(children, "flow_run", SimpleNamespace(id=uuid4(), run_count=1))
    monkeypatch.setattr(children, "running_child", lambda *_: SimpleNamespace(id=server.child, name="dedup-smoke"))
    monkeypatch.setattr(children, "_wait_for_end", interrupted)
    with pytest.raises(Ended):
        children.run_child("dedup/dedup-smoke", {}, [])
    assert [state.is_cancelling() for state in server.asked.values()] == [True] * cancelled
    assert set(server.asked) <= {server.child}
