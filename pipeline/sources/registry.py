"""The kinds of sources there are. A new one is one module and one line here."""

from pipeline.sources import code, common_crawl, git, hugging_face, tables, warc, wikipedia
from pipeline.sources.contract import Kind, Source, whole_archives

SOURCES: dict[Kind, Source] = {
    "common_crawl": Source(common_crawl.parts, common_crawl.read, listed=False),
    "warc": Source(warc.parts, warc.read),
    "wet": Source(warc.parts, warc.read),
    "wikipedia": Source(wikipedia.parts, wikipedia.read),
    "code": Source(whole_archives, code.read),
    "git": Source(git.parts, git.read, listed=False, identity=git.local_identity),
    "jsonl": Source(whole_archives, tables.read_jsonl),
    "parquet": Source(whole_archives, tables.read_parquet),
    "hugging_face": Source(hugging_face.parts, hugging_face.read, listed=False, identity=hugging_face.local_identity),
}
