"""What the dedup stage can be told."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.config import Config, Execution, Later

DOCUMENTS = "quality"
"""The role of the documents that are compared, whichever stage hands them on."""
Criterion = Literal["source", "quality", "length", "date", "id"]

URL, EXACT, NEAR = 1, 2, 3
"""Levels, in the order they are decided; those of other packages follow (``own``) and are decided with ``NEAR``."""

PRESETS: dict[str, tuple[int, int]] = {"14x8": (14, 8), "26x11": (26, 11), "20x13": (20, 13)}
"""Bands × rows: 14 × 8 as in FineWeb, 26 × 11 for higher similarity, 20 × 13 for near identity (NeMo Curator's default)."""


class DedupConfig(Config):
    """Levels, thresholds and the choice of the survivor."""

    url: bool = True
    """Drop documents whose normalised URL another document has, if the texts are alike."""

    url_threshold: float = Field(0.5, ge=0.0, le=1.0)
    """What share of the shorter text's shingles the other one must have for the same URL to mean the same page. 0 takes the
    URL's word."""

    exact: bool = True
    """Drop documents whose text another document has, whitespace aside."""

    near: bool = True
    """Drop near duplicates: nominated by MinHash-LSH, verified on the true shingles."""

    levels: Annotated[tuple[str, ...], Later()] = ()
    """Levels of other packages, by dotted path or the name under which an installed package offers them: documents that share a
    key."""

    ngram: int = Field(5, ge=1, le=50)
    """Words in a shingle."""

    preset: Literal["14x8", "26x11", "20x13", "custom"] = "custom"
    """Bands × rows of the MinHash signature by name; ``custom`` takes ``bands`` and ``rows`` (by default 14 × 8)."""

    bands: int = Field(14, ge=1, le=256)
    """Bands of the MinHash signature: more of them nominate more pairs, also less similar ones."""
    rows: int = Field(8, ge=1, le=64)
    """Values in a band: more of them nominate fewer pairs, only very similar ones."""

    seed: int = Field(1, ge=0, le=2**32 - 1)
    """Seed of the MinHash permutations, as in ``datasketch.MinHash(seed=…)``."""

    measure: Literal["jaccard", "containment"] = "jaccard"
    """What a nominated pair must reach: Jaccard similarity, or the share of the shorter one's shingles in the other."""

    threshold: float = Field(0.8, gt=0.0, le=1.0)
    """Share of their word n-grams that a nominated pair must truly have in common to be near duplicates."""

    max_characters: int = Field(500_000, ge=1_000, le=50_000_000)
    """A text is shingled up to here; exact copies are compared whole."""

    survivor: tuple[Criterion, ...] = ("source", "quality", "length", "date", "id")
    """Which of several copies stays: by source priority, then the higher quality, the longer, the earlier date, the id."""

    source_priority: tuple[str, ...] = ()
    """Sources from the most to the least wanted; sources not named come last."""

    per_language_code: bool = True
    """Compare source code only with code in the same programming language."""

    repeats: Literal["off", "line", "paragraph", "window"] = "off"
    """Cut what many of the remaining documents share: whole lines, whole paragraphs, or any run of ``window_words`` words.
    Source code is left alone."""

    repeat_documents: int = Field(10, ge=2)
    """A line, paragraph or run is cut if so many documents have it; the best-ranked of them keeps it."""

    repeat_words: int = Field(5, ge=1)
    """Shorter lines and paragraphs are left alone."""

    window_words: int = Field(50, ge=5)
    """The length of a run."""

    min_words_left: int = Field(20, ge=0)
    """A document of which less would be left is dropped, unless it is another one's survivor."""

    scope: Literal["within", "all"] = "all"
    """``within``: compare only the documents of this run. ``all``: also with the datasets in ``previous``."""

    previous: tuple[str, ...] = ()
    """Earlier dedup datasets whose documents count as already kept: ``dedup/<fingerprint>`` in the same store, or the
    address of a dataset's folder. Leave one out to remove its snapshot from the comparison."""

    index: bool = True
    """Keep signatures and shingles of the kept documents, so that later runs can name this dataset in ``previous``."""

    block_documents: int = Field(65_536, ge=1)
    """Documents in a block, the unit of all work that is grouped by document. Never changes the result, but the files
    between steps depend on it."""

    memory_mb: Annotated[int, Execution()] = Field(1024, ge=128)
    """Memory a worker may use, in MiB. Decides how the work is cut, never the result."""

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and rows in force."""
        return PRESETS.get(self.preset, (self.bands, self.rows))

    @property
    def budget(self) -> int:
        """Bytes one step may hold in its largest arrays: the rest is left to the interpreter and Arrow."""
        return max(16, (self.memory_mb - 256) // 4) << 20

    @model_validator(mode="after")
    def _some_level(self) -> "DedupConfig":
        if not (self.url or self.exact or self.near or self.levels):
            raise ValueError("url, exact and near are all off: choose at least one level")
        if (self.bands, self.rows) not in ((14, 8), self.shape):
            raise ValueError(f"bands and rows say otherwise than preset {self.preset}: leave it out, or them")
        if len(set(self.survivor)) != len(self.survivor):
            raise ValueError("survivor names a criterion twice")
        return self
