"""A language that a rule takes away whole: most likely the rule does not fit it, and nobody would know.

Each unit counts, as metrics ``language fate`` of its receipt, what became of its documents by language. Where a source has
``FEWEST`` documents in a language and all but a hundredth of them fell to one rule, the dataset's warnings say so.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from infra.stage import Receipt
from pipeline.profiles import source_of

KEPT = "kept"
CHOSEN = frozenset({"language", "language_score", "classifier"})
"""Rules by which a recipe chooses on purpose."""
FEWEST = 20
NEARLY_ALL = 0.99
_PREFIX = "language:"


def count_fates(languages: Iterable[str | None], fates: Iterable[str]) -> Counter[str]:
    """Metrics of a unit: how many documents of each language had each fate."""
    pairs = Counter(zip(languages, fates, strict=True))
    return Counter(
        {
            f"{_PREFIX}{language}:{fate}": number
            for (language, fate), number in pairs.items()
            if language and fate not in CHOSEN
        }
    )


def lost_languages(receipts: Iterable[Receipt]) -> Iterator[str]:
    """A sentence for each language of a source that nearly all fell to one rule, from units that wrote ``data/<source>/…``."""
    totals: dict[tuple[str, str], Counter[str]] = {}
    for receipt in receipts:
        sources = {source_of(output.path) for output in receipt.outputs if output.path.startswith("data/")}
        for name, number in receipt.metrics.items():
            if name.startswith(_PREFIX):
                _, language, fate = name.split(":", 2)
                for source in sources:
                    totals.setdefault((source, language), Counter())[fate] += int(number)
    for (source, language), fates in sorted(totals.items()):
        documents = fates.total()
        rule, fallen = fates.most_common(1)[0]
        if rule != KEPT and documents >= FEWEST and fallen >= NEARLY_ALL * documents:
            which = f"all {documents:,}" if fallen == documents else f"{fallen:,} of {documents:,}"
            yield (
                f"{source}: {which} documents in {language} fell to rule {rule}, which may not fit the language "
                f"(quality.sources: thresholds or without)"
            )
