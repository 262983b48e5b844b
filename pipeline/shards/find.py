"""Words in the training tokens: the longest phrases of a text that stand there verbatim, and in which documents.

    index = Index(dataset)
    for span in index.find("…", limit=10).spans:
        span.start, span.end, span.count, span.matches

* The text is tokenised, and for each shard the suffix array tells its *maximal* phrases: those that no longer one holds.
* Where a text is cut in the middle of a word its ends are other tokens than in the documents. So what is found as tokens
  is followed on both sides as bytes, and phrases at the ends of the text are also looked for without their last tokens;
  the text is tried with a space before it, too. A verbatim part of a document is found if it holds one whole token of it.
* Noise is left out: what has no letter or digit, and what the frequencies of single tokens alone would bring about
  (OLMoTrace, arXiv 2504.07096, ranks by them). Not so if it is all that was asked for.
"""

import bisect
import itertools
import json
import mmap
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import InputError
from infra.store.dataset import Dataset
from pipeline.shards import phrases as arrays
from pipeline.shards.append import UNIGRAMS
from pipeline.shards.index import ARRAYS, DESCRIPTION, DOCUMENT_ROWS, DOCUMENTS_SUFFIX, FORMAT_VERSION
from pipeline.tokenizer.model import SPECIALS, Tokenizer, encodable

MOST_CHARACTERS = 1 << 20
EXAMINED = 32
"""Occurrences of a phrase that are followed as bytes; of one with more, tokens alone are compared."""
READERS, AT_ONCE = 16, 8
"""Threads that wait for pages, and for how many searches each."""
CLIPPED = 3
"""Tokens at an end of the text that may be others in a document."""
CACHED_BATCHES = 64
"""Batches of documents of a shard that stay decompressed."""
NEAR = 64
"""Pieces that a search for one begins with."""
AROUND_TOKENS, AROUND_CHARACTERS = 64, 200


@dataclass(frozen=True)
class Match:
    """A document that holds a span. ``rows`` of the training shards hold it there, the first in ``shard``."""

    id: str
    url: str | None
    source: str
    archive: str | None
    offset: int | None
    quality: float | None
    before: str
    after: str
    shard: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """Characters ``start`` to ``end`` of the text, ``count`` times in the training tokens; some of the documents follow."""

    start: int
    end: int
    tokens: int
    count: int
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Found:
    tokens: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Occurrence:
    """Where a span stands: from byte ``byte`` of the token at ``place`` on, until before token ``until``."""

    part: int
    place: int
    byte: int
    until: int


class Index:
    """A published index, mapped into memory. Threads may share it. Raises InputError for what is none, or a damaged one."""

    def __init__(self, dataset: Dataset) -> None:
        folder = dataset.local("data")
        try:
            self.described = json.loads(dataset.local(DESCRIPTION).read_text())
        except FileNotFoundError:
            raise InputError(
                f"{dataset.name} is no index", where=dataset.root, remedy="Name a dataset that the index stage made."
            ) from None
        if self.described["format"] != FORMAT_VERSION:
            raise InputError(
                f"the index has format {self.described['format']}",
                where=dataset.root,
                remedy=f"This version reads format {FORMAT_VERSION}: run the index stage again.",
            )
        self.shards: str = self.described["shards"]
        """The dataset that it is an index of, ``name/fingerprint``. It need not be there any more."""
        self.phases: list[int] = self.described["phases"]
        self.tokenizer = Tokenizer.load(folder)
        if self.tokenizer.digest != self.described["tokenizer_digest"]:
            raise InputError(
                f"the index was made with tokenizer {self.described['tokenizer_digest'][:12]}, and beside it lies "
                f"{self.tokenizer.digest[:12]}",
                where=dataset.root,
                remedy="Its ids mean other text: run the index stage again with --force.",
            )
        self._table = table = self.tokenizer.token_bytes
        sizes = np.fromiter(map(len, table), np.int64, len(table))
        self._spelt = np.frombuffer(b"".join(table), np.uint8), np.concatenate([[0], np.cumsum(sizes)])
        counts = np.load(dataset.local(UNIGRAMS))
        self._total = int(counts.sum())
        self._log_shares = np.log(np.maximum(counts, 1) / max(self._total, 1))
        self.parts = [_Part(dataset, part, self.described["vocab_size"]) for part in self.described["parts"]]
        self._pool = ThreadPoolExecutor(READERS)

    def find(self, text: str, limit: int = 10) -> Found:
        """At most ``limit`` spans, the longest first, each with at most so many documents. Raises InputError."""
        if not text.strip():
            raise InputError("there are no words to look for", remedy="Give a text.")
        if len(text) > MOST_CHARACTERS:
            raise InputError(
                f"the text has {len(text):,} characters",
                remedy=f"At most {MOST_CHARACTERS:,} are looked for at once: give a part of it.",
            )
        queries = self._queries(text)
        most = limit + CLIPPED + 1
        candidates = sorted(
            ((query, span) for query in queries for span in self._maximal(query, most)),
            key=lambda each: (each[0].begins[each[1][0]] - each[0].begins[each[1][1]], each[1]),
        )[:most]
        hits: dict[tuple[int, int], _Hit] = {}
        for query in queries:
            for start, end, hit in self._hits(query, [span for owner, span in candidates if owner is query], limit):
                hits.setdefault((start, end), _Hit()).add(hit)
        bounds = queries[0].begins

        def described(at: tuple[int, int]) -> Span:
            start, end = at
            before, size = (len(encodable(part).encode()) for part in (text[:start], text[start:end]))
            first = int(np.searchsorted(bounds, before, side="right")) - 1
            tokens = int(np.searchsorted(bounds, before + size, side="left")) - first
            return Span(start, end, tokens, hits[at].count, self._matches(hits[at].occurrences, size, limit))

        outermost = _outermost(np.array([*hits], np.int64).reshape(-1, 2)).tolist()
        longest = sorted(((start, end) for start, end in outermost), key=lambda at: (at[0] - at[1], at))[:limit]
        spans = sorted(self._pool.map(described, longest), key=lambda span: (-span.tokens, span.start))
        return Found(len(bounds) - 1, tuple(spans))

    def _spell(self, tokens: np.ndarray) -> bytes:
        return b"".join(map(self._table.__getitem__, tokens.tolist()))

    # ---- phrases of tokens --------------------------------------------------------------------------------------

    def _queries(self, text: str) -> list["_Query"]:
        """The text as it is, and after a space: a word in a document has most often one before it."""
        spaced = [text] if text[0].isspace() else [text, f" {text}"]
        sizes = np.diff(self._spelt[1])
        queries = []
        for spaces, given in enumerate(spaced):
            tokens = np.array(self.tokenizer.encode(given), np.int64)
            begins = np.concatenate([[0], np.cumsum(sizes[tokens])])
            queries.append(_Query(tokens, begins, encodable(given).encode(), spaces))
        return queries

    def _maximal(self, query: "_Query", most: int) -> list[tuple[int, int]]:
        """The longest phrases that no longer one holds and that say something."""
        # With the space before it the text is tried for its first word; all else was found without.
        size = 1 if query.spaces else len(query.tokens)
        found = _outermost(np.concatenate(self._read(lambda part, at: part.maximal(query.tokens, *at), size)))
        begins, ends = found[:, 0], found[:, 1]
        surprise = np.concatenate([[0.0], np.cumsum(self._log_shares[query.tokens])])
        sizes = query.begins[ends] - query.begins[begins]
        by_chance = np.log(self._total) + surprise[ends] - surprise[begins] > -1e-6
        possible = np.flatnonzero(~by_chance | (sizes >= len(query.text.encode())))
        longest = possible[np.lexsort((begins[possible], -sizes[possible]))]
        said = (at for at in longest.tolist() if query.says_something(begins[at], ends[at], bool(by_chance[at])))
        return [(int(begins[at]), int(ends[at])) for at in itertools.islice(said, most)]

    def _read(self, work: Callable[["_Part", tuple[int, int]], np.ndarray], size: int) -> list[np.ndarray]:
        """Work on ranges of ``size`` things in every part, many at a time: from a cold disk each waits for its pages."""
        step = max(AT_ONCE, -(-size // READERS))
        tasks = [(part, (at, min(at + step, size))) for part in self.parts for at in range(0, size, step)]
        return list(self._pool.map(lambda task: work(*task), tasks))

    # ---- followed as bytes --------------------------------------------------------------------------------------

    def _hits(self, query: "_Query", spans: Sequence[tuple[int, int]], limit: int) -> Iterable[tuple[int, int, "_Hit"]]:
        """Each phrase as far as it goes: the characters of the text, and where it stands."""
        cores = [core for span in spans for core in _cores(span, len(query.tokens))]
        if not cores:
            return
        phrases = np.array(cores, np.int64)
        read = self._read(lambda part, at: part.ranges(query.tokens, phrases[slice(*at)]), len(phrases))
        found = np.concatenate(read).reshape(len(self.parts), len(phrases), 2)
        totals = dict(zip(cores, (found[:, :, 1] - found[:, :, 0]).sum(axis=0).tolist(), strict=True))

        def hit(span: tuple[int, int]) -> tuple[int, int, _Hit]:
            core = next((core for core in _cores(span, len(query.tokens)) if 0 < totals[core] <= EXAMINED), span)
            bounds = found[:, cores.index(core)]
            if totals[core] <= EXAMINED:
                return self._followed(query, core, bounds)
            start, end = query.characters(int(query.begins[span[0]]), int(query.begins[span[1]]))
            return start, end, _Hit(totals[core], self._sample(query, span, bounds), exact=False)

        yield from self._pool.map(hit, spans)

    def _followed(self, query: "_Query", core: tuple[int, int], bounds: np.ndarray) -> tuple[int, int, "_Hit"]:
        begin, end = int(query.begins[core[0]]), int(query.begins[core[1]])
        asked = np.frombuffer(query.asked, np.uint8)
        rows = []
        for number, part in enumerate(self.parts):
            places = part.suffixes[bounds[number, 0] : bounds[number, 1]].astype(np.int64)
            if len(places):
                grown = part.grow(np.sort(places), core[1] - core[0], self._spelt, asked, query.spaces, begin, end)
                rows.append(np.column_stack([np.full(len(places), number), grown]))
        grown = np.concatenate(rows)
        longest = grown[np.argmax(grown[:, 2] - grown[:, 1])]
        covering = grown[(grown[:, 1] <= longest[1]) & (grown[:, 2] >= longest[2])]
        occurrences = [Occurrence(int(row[0]), int(row[3]), int(row[4]), int(row[5])) for row in covering]
        start, stop = query.characters(int(longest[1]), int(longest[2]))
        return start, stop, _Hit(len(occurrences), occurrences, exact=True)

    def _sample(self, query: "_Query", span: tuple[int, int], bounds: np.ndarray) -> list[Occurrence]:
        """Some occurrences of a phrase, from all over the shards."""
        sizes = bounds[:, 1] - bounds[:, 0]
        ends = np.cumsum(sizes)
        chosen = np.unique(np.linspace(0, ends[-1] - 1, EXAMINED).astype(np.int64))
        parts = np.searchsorted(ends, chosen, side="right")
        at = bounds[parts, 0] + chosen - (ends - sizes)[parts]
        places = [int(self.parts[part].suffixes[index]) for part, index in zip(parts, at, strict=True)]
        extra = max(query.spaces - int(query.begins[span[0]]), 0)
        whole, byte = (1, 0) if query.begins[span[0] + 1] == extra else (0, extra)
        found = sorted(zip(parts.tolist(), places, strict=True))
        return [Occurrence(part, place + whole, byte, place + span[1] - span[0]) for part, place in found]

    # ---- the documents behind it --------------------------------------------------------------------------------

    def _matches(self, occurrences: Iterable[Occurrence], size: int, limit: int) -> tuple[Match, ...]:
        """One for each document, with all rows in which it holds the span."""
        by_place: dict[tuple[int, int], list[Occurrence]] = {}
        for each in occurrences:
            key = (each.part, self.parts[each.part].document(each.place))
            if key in by_place or len(by_place) < limit:
                by_place.setdefault(key, []).append(each)
        by_document: dict[bytes, tuple[dict[str, Any], list[Occurrence]]] = {}  # several shards may hold the same one
        for (part, document), places in by_place.items():
            origin = self.parts[part].origin(document)
            by_document.setdefault(origin["document_id"], (origin, []))[1].extend(places)
        return tuple(self._match(origin, places, size) for origin, places in by_document.values())

    def _match(self, origin: dict[str, Any], occurrences: Sequence[Occurrence], size: int) -> Match:
        first = occurrences[0]
        part = self.parts[first.part]
        rows = sorted({row for each in occurrences for row in self.parts[each.part].rows(each.place, each.until)})
        tokens = part.text(first.place - AROUND_TOKENS, first.place)
        begun = self._spell(part.text(first.place, first.until))
        before = self._spell(_last_text(tokens)) + begun[: first.byte]
        after = begun[first.byte + size :] + self._spell(
            _first_text(part.text(first.until, first.until + AROUND_TOKENS))
        )
        return Match(
            origin["document_id"].hex(), origin["url"], origin["source"], origin["archive"], origin["archive_offset"],
            origin["quality"], before.decode("utf-8", "ignore")[-AROUND_CHARACTERS:],
            after.decode("utf-8", "ignore")[:AROUND_CHARACTERS], part.name, tuple(rows),
        )  # fmt: skip


@dataclass(frozen=True)
class _Query:
    """A text as tokens; ``begins`` are the bytes of ``asked`` where they begin, and its end. ``spaces`` stand before the text."""

    tokens: np.ndarray
    begins: np.ndarray
    asked: bytes
    spaces: int

    @cached_property
    def text(self) -> str:
        return self.asked.decode().strip()

    def says_something(self, begin: int, end: int, by_chance: bool) -> bool:
        """Whether a phrase is no noise, or all that was asked for."""
        text = self.asked[self.begins[begin] : self.begins[end]].decode("utf-8", "ignore").strip()
        return text == self.text or (not by_chance and any(map(str.isalnum, text)))

    def characters(self, begin: int, end: int) -> tuple[int, int]:
        """The characters of the text that lie wholly within these bytes of ``asked``."""
        begin = max(begin, self.spaces)
        while begin < end and self.asked[begin] & 0xC0 == 0x80:
            begin += 1
        while end > begin and end < len(self.asked) and self.asked[end] & 0xC0 == 0x80:
            end -= 1
        start = len(self.asked[self.spaces : begin].decode())
        return start, start + len(self.asked[begin:end].decode())


@dataclass
class _Hit:
    """How often a span stands in the training tokens, and where; ``exact``: all places are known."""

    count: int = 0
    occurrences: Sequence[Occurrence] = ()
    exact: bool = True

    def add(self, other: "_Hit") -> None:
        """The same span, found by other tokens."""
        both = self.exact and other.exact
        merged = list(dict.fromkeys([*self.occurrences, *other.occurrences]))
        self.count = len(merged) if both else self.count + other.count
        self.occurrences, self.exact = merged, both


class _Part:
    """The index of one shard."""

    def __init__(self, dataset: Dataset, described: dict[str, Any], vocab_size: int) -> None:
        self.name: str = described["name"]
        self._first_row: int = described["first_row"]
        self._bits = arrays.token_bits(vocab_size)
        try:
            loaded = {kind: _mapped(dataset, f"data/{self.name}.{kind}.npy") for kind in ARRAYS}
            origins = pa.memory_map(str(dataset.local(f"data/{self.name}{DOCUMENTS_SUFFIX}")))
            # A batch is small: to hand its columns to threads would take longer than to decompress them.
            documents = pa.ipc.open_file(origins, options=pa.ipc.IpcReadOptions(use_threads=False))
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise _damaged(dataset, self.name) from error
        self._batch = lru_cache(CACHED_BATCHES)(documents.get_batch)
        self.low, self.high, self.suffixes, nodes, fences, self._pieces = (loaded[kind] for kind in ARRAYS)
        self._arrays = self.low, self.high, self.suffixes, nodes, np.array(fences)  # the fences stay in memory
        tokens = described["tokens"]
        sizes = len(self.low), len(self.high), len(self.suffixes), len(nodes), len(fences)
        sampled = -(-tokens // arrays.NODE)
        high = -(-tokens // 2) if vocab_size > 1 << 16 else 0
        if sizes != (tokens, high, tokens, sampled, -(-sampled // arrays.FENCED)):
            raise _damaged(dataset, self.name)

    def maximal(self, tokens: np.ndarray, begin: int, until: int) -> np.ndarray:
        spans = np.empty((until - begin, 2), np.int64)
        number = arrays.maximal(*self._arrays, tokens, self._bits, begin, until, spans)
        return spans[:number]

    def ranges(self, tokens: np.ndarray, phrases: np.ndarray) -> np.ndarray:
        found = np.empty((len(phrases), 2), np.int64)
        arrays.ranges(*self._arrays, tokens, phrases, self._bits, found)
        return found

    def grow(self, places: np.ndarray, length: int, spelt: tuple[np.ndarray, np.ndarray], *asked: Any) -> np.ndarray:
        """``asked``: bytes, the first that counts, and which of them the ``length`` tokens at these places are."""
        grown = np.empty((len(places), 5), np.int64)
        arrays.grow(self.low, self.high, places, length, len(SPECIALS), *spelt, *asked, grown)
        return grown

    def text(self, begin: int, end: int) -> np.ndarray:
        """Tokens of the shard's documents."""
        return arrays.whole(self.low, self.high, max(begin, 0), max(end, 0))

    def rows(self, begin: int, end: int) -> range | list[int]:
        """Rows, counted through all shards, that hold the tokens at these places."""
        first, last = self._piece(begin), self._piece(max(end - 1, begin))
        return [self._first_row + int(row) for row in self._pieces[first : last + 1, 1]]

    def document(self, place: int) -> int:
        """The number of the document whose tokens stand at a place."""
        return int(self._pieces[self._piece(place), 3])

    def origin(self, document: int) -> dict[str, Any]:
        batch = self._batch(document // DOCUMENT_ROWS)
        found: dict[str, Any] = batch.slice(document % DOCUMENT_ROWS, 1).to_pylist()[0]
        return found

    def _piece(self, place: int) -> int:
        # Around where it were if all were of one length: documents lie in the order of their ids, the short among the long.
        places, near = self._pieces[:, 0], NEAR
        guess = place * len(places) // len(self.low)
        while True:
            first, last = max(guess - near, 0), min(guess + near, len(places))
            if (first == 0 or places[first] <= place) and (last == len(places) or places[last] > place):
                return bisect.bisect_right(places, place, first, last) - 1
            near *= 4


def _mapped(dataset: Dataset, path: str) -> np.ndarray:
    array: np.ndarray = np.load(dataset.local(path), mmap_mode="r" if _size(dataset, path) else None)
    underlying = getattr(array, "_mmap", None)
    if underlying is not None and hasattr(mmap, "MADV_RANDOM"):
        underlying.madvise(mmap.MADV_RANDOM)  # neighbours of what a search touches are not what it touches next
    return np.asarray(array)


def _size(dataset: Dataset, path: str) -> int:
    return next((output.bytes for output in dataset.manifest.outputs if output.path == path), 0)


def _damaged(dataset: Dataset, name: str) -> InputError:
    return InputError(
        f"the index of shard {name} is damaged", where=dataset.root, remedy="Run the index stage again with --force."
    )


def _outermost(spans: np.ndarray) -> np.ndarray:
    """Those that lie in no other, in order and each once."""
    spans = spans[np.lexsort((-spans[:, 1], spans[:, 0]))]
    reached = np.maximum.accumulate(np.concatenate([[-1], spans[:-1, 1]])) if len(spans) else spans[:, 1]
    chosen: np.ndarray = spans[spans[:, 1] > reached]
    return chosen


def _cores(span: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """A phrase less some tokens at an end where the text is cut, the shortest first, and at last the whole."""
    begin, end = span
    left = range(CLIPPED if begin == 0 else 0, -1, -1)
    right = range(CLIPPED if end == size else 0, -1, -1)
    cut = sorted(itertools.product(left, right), key=lambda both: -sum(both))
    if end - begin > 2 * CLIPPED:  # of a long one, evenly
        cut = [(a, b) for a, b in cut if a == b or begin != 0 or end != size]
    return [(begin + a, end - b) for a, b in cut if end - b > begin + a]


def _last_text(tokens: np.ndarray) -> np.ndarray:
    """What stands after the last token that is no text."""
    ends = np.flatnonzero(tokens < len(SPECIALS))
    return tokens[ends[-1] + 1 :] if len(ends) else tokens


def _first_text(tokens: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(tokens < len(SPECIALS))
    return tokens[: ends[0]] if len(ends) else tokens
