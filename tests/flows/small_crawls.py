"""Two or three tiny crawls of real pages on a loopback mirror, and a recipe that reads them."""

import zlib
from pathlib import Path

from tests.pipeline.sources.mirror import Mirror
from tests.support import shared_data

CRAWLS = ("CC-MAIN-2026-05", "CC-MAIN-2026-10", "CC-MAIN-2026-14")

RECIPE = """recipe: {name}
execution: {{workers: 2}}
stages:
  sample: {{pages: 1, code_files: 1, conversations: 1, texts: false}}
  ingest:
    sources:
      - {{name: web, kind: common_crawl, address: CC-MAIN-2026-05, mirror: "{mirror}", index: "{mirror}"}}
      - {{name: wikipedia, kind: wikipedia, address: "dataset://sample/wikipedia/enwiki.xml.bz2"}}
  classifier: {{documents: 100, epochs: 2}}
  attributes: {{}}
  quality:
    sources:
      - {{source: "*", languages: [en]}}
  dedup: {{}}
  decontaminate: {{}}
  redact: {{}}
  tokenizer: {{vocab_size: 800}}
  shards:
    seq_len: 128
    bucket_tokens: 20000
    mixture:
      - {{source: web, weight: 0.6, max_epochs: 1}}
      - {{source: wikipedia, weight: 0.4, max_epochs: 1}}
"""


def real_records(count: int) -> list[bytes]:
    """Gzip members of an archive of real pages, one a record."""
    data = shared_data("web/pages.warc.gz").read_bytes()
    members: list[bytes] = []
    start = 0
    while len(members) < count:
        decoder = zlib.decompressobj(31)
        window = data[start : start + (8 << 20)]
        decoder.decompress(window)
        size = len(window) - len(decoder.unused_data)
        members.append(data[start : start + size])
        start += size
    return members


def write_recipe(folder: Path, mirror: Mirror, name: str = "monthly") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, mirror=mirror.url))
    return path


def archives_of(records: list[bytes]) -> dict[str, bytes]:
    """Two archives."""
    half = len(records) // 2
    return {"00000.warc.gz": b"".join(records[:half]), "00001.warc.gz": b"".join(records[half:])}
