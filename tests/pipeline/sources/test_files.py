"""Addresses that lead nowhere are one sentence, whatever the driver's own error is."""

import fsspec
import pytest

from infra.errors import InputError
from pipeline.sources.files import find_archives


class Unreachable(fsspec.AbstractFileSystem):
    """A store whose driver has errors of its own."""

    protocol = "unreachable"

    def info(self, path: str, **_: object) -> dict[str, object]:
        raise RuntimeError("name or service not known")

    ls = isdir = info


def test_a_store_whose_driver_fails_in_its_own_way_is_named() -> None:
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    for address in ("unreachable://bucket/a.jsonl", "unreachable://bucket/*.jsonl"):
        with pytest.raises(InputError, match="cannot be listed: name or service not known") as error:
            find_archives(address, {})
        assert error.value.where == address
