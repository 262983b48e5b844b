"""Documents and attributes for the selection, as the stages before it would have written them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.quality.measures import Batch, as_arrow, measure
from tests.pipeline.corpus import document, publish_documents
from tests.support import adopt_dataset

ARTICLE = (
    "The mill stood by the river for three hundred years, and the people of the town brought their corn to it. "
    "When the railway came, it brought flour from far away. The wheel stopped turning in the winter of that year. "
    "Nobody knows who closed the gate for the last time. The building has been a school, a store and a house. "
    "Today it holds a small museum with the old stones and a model of the works that have long been gone.\n"
    "Visitors can walk to it along the water from the station. It is open on most days in the summer."
)
SHORT = "Nothing to see here."
SHOUTING = "\n".join(["BUY NOW AND SAVE"] * 30)
CODE_PAGE = ARTICLE + "\nUse it like this: function mill() { return the_wheel; } and you are done with it."


def quality_inputs(folder: Path, texts: dict[str, list[tuple[str, str, float]]], files: int = 2) -> dict[str, Dataset]:
    """Datasets ``ingest`` and ``attributes`` from ``{source: [(text, language, classifier score)]}``."""
    documents, languages, scores = [], {}, {}
    for source, entries in texts.items():
        for number, (text, language, score) in enumerate(entries):
            made = document(source, number, text)
            made.pop("quality")
            languages[made["id"]], scores[made["id"]] = language, score
            documents.append(made)
    ingest = publish_documents(folder / "ingest", documents, "ingest", files)
    outputs = []
    for file in ingest.files():
        rows = pq.read_table(ingest.local(file.path)).to_pylist()
        spoken = [languages[row["id"]] for row in rows]
        columns = measure(Batch([row["text"] for row in rows], spoken, [None] * len(rows)))
        target = folder / "attributes" / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table(
                {
                    "id": pa.array([row["id"] for row in rows], pa.binary(16)),
                    "language": pa.array(spoken, pa.string()),
                    "language_score": pa.array([0.9] * len(rows), pa.float32()),
                    "quality": pa.array([scores[row["id"]] for row in rows], pa.float32()),
                    **{name: as_arrow(column) for name, column in columns.items()},
                }
            ),
            target,
        )
        outputs.append(describe_file(folder / "attributes", file.path))
    count = len(documents)
    return {
        "ingest": ingest,
        "attributes": adopt_dataset(folder / "attributes", "attributes", outputs, Counts(incoming=count, kept=count)),
    }
