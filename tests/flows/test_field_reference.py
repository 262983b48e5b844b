"""docs/reference.md says what the models say, of every field."""

from flows.stages import STAGE_NAMES
from tests.flows import field_reference
from tests.support import REPOSITORY


def test_the_page_is_as_the_models_are() -> None:
    page = (REPOSITORY / "docs/reference.md").read_text()
    made = "".join(field_reference.pages())
    assert page == made, "run python -m tests.flows.field_reference > docs/reference.md, and look at what changed"
    assert all(f"\n## {name}\n" in page for name in (*STAGE_NAMES, "execution"))


def test_every_field_says_what_it_means() -> None:
    rows = [line.split(" | ") for line in "".join(field_reference.pages()).splitlines() if line.startswith("| `")]
    assert len(rows) > 300
    assert not [row[0] for row in rows if len(row[-1].strip(" |")) < 8]
    assert {"dedup.bands", "ingest.sources[].kind"} <= {
        f"{stage}.{row[0].strip('| `')}" for stage in ("dedup", "ingest") for row in rows
    }
