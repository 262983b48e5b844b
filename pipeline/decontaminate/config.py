"""What the decontamination stage can be told."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.config import Config, Later


class EvaluationSet(Config):
    """Where the items of one evaluation are, and which of their fields must not be in the training data."""

    name: str = Field("humaneval", pattern=r"^[A-Za-z0-9_.-]+$")
    """What it is called in the ledger and the report."""

    address: str = "dataset://sample/eval/humaneval.jsonl"
    """JSON lines (``.jsonl``, ``.jsonl.gz``), Parquet, or ``hf://owner/name[:configuration]@split`` for a Hugging Face
    dataset; ``dataset://<stage>/<path>`` is a file of an upstream dataset."""

    fields: tuple[str, ...] = ("prompt", "canonical_solution")
    """Texts of an item; ``a.b`` reaches into nested values, also those of a list, which are joined by line breaks."""

    id_field: str = "task_id"
    """Names the item in the evidence; items without it are named by their number."""

    max_items: Annotated[int, Later()] = Field(0, ge=0)
    """Items that must not be in the training data, from the first on; 0: all."""

    max_characters: Annotated[int, Later()] = Field(0, ge=0)
    """Characters of a field that count, from its beginning; 0: all. Of a book of which only the beginning is asked."""


class DecontaminateConfig(Config):
    """How much of an evaluation item a document may hold, and what happens to it otherwise."""

    evaluations: tuple[EvaluationSet, ...] = (EvaluationSet(),)
    """The evaluation sets that no training document may contain."""

    ngram: int = Field(13, ge=3, le=50)
    """Words in an n-gram."""

    overlap: float = Field(0.5, gt=0.0, le=1.0)
    """A document is contaminated if this share of the n-grams of one of its paragraphs is in evaluation items, or this
    share of the n-grams of an item's field is in the document."""

    short_words: int = Field(8, ge=1, le=50)
    """Texts shorter than an n-gram count if they have at least so many words; they must be equal as a whole."""

    boilerplate_items: int = Field(10, ge=2)
    """N-grams that so many items of one evaluation share are its template, not its content: they do not count."""

    boilerplate: tuple[str, ...] = ()
    """Further texts whose n-grams do not count."""

    policy: Literal["drop", "cut", "report"] = "drop"
    """Drop the document, cut the matching parts out of it, or keep it and only record the evidence."""

    min_words_left: int = Field(50, ge=0)
    """With ``cut``: a document with fewer words left is dropped."""

    max_characters: int = Field(20_000_000, ge=1_000)
    """A text is searched up to here."""

    @model_validator(mode="after")
    def _distinct_names(self) -> "DecontaminateConfig":
        names = [evaluation.name for evaluation in self.evaluations]
        if len(set(names)) != len(names):
            raise ValueError("two evaluations have the same name")
        if not names:
            raise ValueError("evaluations is empty: name at least one")
        return self
