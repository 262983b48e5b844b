"""Names and links of those who vote."""

from pathlib import Path

import pytest

from alignment.votes.annotators import ANNOTATORS, Annotators
from infra.errors import InputError


def test_a_token_tells_the_name_and_is_kept_nowhere(tmp_path: Path) -> None:
    here, server = Annotators(tmp_path), Annotators(tmp_path)
    assert server.name_of("anything") is None and server.all() == []
    ada, bo = here.add("Ada Lovelace"), here.add(" Bo\n")
    assert (server.name_of(ada), server.name_of(bo)) == ("Ada Lovelace", "Bo")
    assert ada.encode() not in (tmp_path / ANNOTATORS).read_bytes() and server.name_of("") is None


@pytest.mark.parametrize("name", ["Ada", "ada", " ADA ", "Ａｄａ"])
def test_two_annotators_with_one_name_are_refused(tmp_path: Path, name: str) -> None:
    here = Annotators(tmp_path)
    here.add("Ada")
    with pytest.raises(InputError, match="there is an annotator .* already"):
        here.add(name)
    assert len(here.all()) == 1


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\u202eb", "a\0b"])
def test_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name"):
        Annotators(tmp_path).add(name)


def test_a_link_can_be_renewed_and_taken_away_but_the_name_stays(tmp_path: Path) -> None:
    here = Annotators(tmp_path)
    old = here.add("Ada")
    new = here.renew("ada")
    assert (here.name_of(old), here.name_of(new)) == (None, "Ada")
    here.remove("Ada")
    assert here.name_of(new) is None and here.name_of("") is None
    with pytest.raises(InputError, match="already"):
        here.add("Ada")
    with pytest.raises(InputError, match="there is no annotator 'Eve'"):
        here.renew("Eve")
