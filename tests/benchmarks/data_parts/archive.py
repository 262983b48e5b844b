"""The benchmark's input: one WARC cut into files of whole gzip members, the same for every system."""

import hashlib
from pathlib import Path

from pipeline.sources.records import read_records

LARGEST_RECORD = 256 << 20


def split(archive: Path, folder: Path, files: int) -> int:
    """Write ``files`` archives of about equal size; returns the number of records."""
    folder.mkdir(parents=True)
    data = archive.read_bytes()
    with archive.open("rb") as stream:
        places = [(record.offset, record.length) for record in read_records(stream, 0, len(data), LARGEST_RECORD)]
    share = len(data) / files
    for number in range(files):
        chosen = [data[at : at + length] for at, length in places if int(at / share) == number]
        (folder / f"{number:02}.warc.gz").write_bytes(b"".join(chosen))
    return len(places)


def copies(folder: Path, target: Path, number: int) -> None:
    """The same files again under other names, to see what grows with the number of files."""
    target.mkdir(parents=True)
    for path in sorted(folder.glob("*.warc.gz"))[:1]:
        for copy in range(number):
            name = hashlib.sha1(f"{copy}".encode(), usedforsecurity=False).hexdigest()[:8]
            (target / f"{name}.warc.gz").hardlink_to(path)
