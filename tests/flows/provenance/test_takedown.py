"""Which addresses a takedown means."""

import pytest

from flows.provenance.takedown import _Query


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("https://www.example.org:8080/x", True),
        ("example.org/owner/name/src/x.py", True),
        ("rows.jsonl#example.org", False),
        ("http://notexample.org/", False),
        ("http://[/", False),
        (None, False),
    ],
)
def test_a_domain_is_found_in_addresses_with_and_without_a_scheme(address: str | None, meant: bool) -> None:
    assert _Query(None, "example.org").meets(address) == meant
