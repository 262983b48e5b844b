"""What a lease must do wherever it lies: on a disk or in an object store."""

import threading
from pathlib import Path

import pytest

from infra.errors import HeadwaterError
from infra.store.lease import Lease, lease_holder


def second_is_refused_or_waits(place: str | Path) -> None:
    first, second = Lease(place), Lease(place)
    first.acquire()
    with pytest.raises(HeadwaterError, match="another run"):
        second.acquire(wait=False)
    told: list[str] = []
    threading.Timer(0.3, first.release).start()
    second.acquire(on_wait=told.append)
    second.check()
    second.release()
    assert len(told) == 1 and lease_holder(place) is None
