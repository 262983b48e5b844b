"""The benchmark's clients against a real server with a tiny model: what they count is so, and they leave nothing behind."""

import asyncio
from pathlib import Path

from tests.benchmarks.serve import measure, tables
from tests.flows.web.sites import running, site_with_models
from tests.training.folders import TEMPLATE


def test_streams_are_counted_and_clients_that_vanish_leave_nothing(tmp_path: Path) -> None:
    with (
        site_with_models(tmp_path, {"tiny": TEMPLATE}, slots=8, queue=64, requests_per_second=1000) as site,
        running(site) as address,
    ):
        found = asyncio.run(measure(address, tokens=6, rounds=1, requests=120))
    assert found["rounds"][0]["one_by_one"] > 0
    assert len(found["first"]) == 80
    assert all(first > 0 for first in found["first"])
    assert 15 <= found["answered"] <= 110
    assert found["leaked"] == 0
    assert found["left"]["after"]["open"] == 0
    rates, figures = tables({"leaked": found["leaked"]}, found["rounds"], {2: 31.0})[1:]
    assert rates.splitlines()[-1] == "| 16, transformers.generate, threads: 2 |  | 31.0 |"
    assert figures.splitlines()[-1] == "| leaked | 0 |"
