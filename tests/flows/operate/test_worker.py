"""The worker asks on for runs to cancel: what it replaces of Prefect's must be there, and give up where ours does not."""

import anyio
import httpx
import pytest
from prefect._internal import observers
from prefect.utilities import services

from flows.operate.worker import ask_on


def test_prefect_polls_by_the_function_that_is_replaced() -> None:
    assert "critical_service_loop" in vars(observers)
    assert "critical_service_loop" in observers.FlowRunCancellingObserver._start_polling_task.__code__.co_names


def test_an_error_threshold_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[dict[str, object]] = []

    async def loop(*arguments: object, **options: object) -> None:
        given_up.append(options)
        if len(given_up) < 3:
            raise RuntimeError("Service exceeded error threshold.")

    monkeypatch.setattr("flows.operate.worker.critical_service_loop", loop)
    anyio.run(ask_on)
    assert len(given_up) == 3


def test_prefects_own_loop_gives_up_with_that_error() -> None:
    async def away() -> None:
        raise httpx.ConnectError("the server is away")

    async def polled() -> None:
        await services.critical_service_loop(away, interval=0.01, consecutive=1, backoff=1, printer=lambda *text: None)

    with pytest.raises(RuntimeError):
        anyio.run(polled)
