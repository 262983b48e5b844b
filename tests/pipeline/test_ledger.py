"""One file of documents through a stage: rows, columns and counts of one balance."""

from pathlib import Path

import pyarrow.parquet as pq

from infra.stage import Counts, UnitContext
from pipeline.document import documents_table, with_texts
from pipeline.ledger import LEDGER_SCHEMA, documents_and_fates, fate, fates_table
from tests.pipeline.corpus import document


def test_what_is_kept_and_what_is_lost_add_up(tmp_path: Path) -> None:
    root = str(tmp_path / "d")
    context = UnitContext(None, {}, root, root, tmp_path / "scratch", "step")
    (batch,) = documents_table([document("web", n, f"text {n}") for n in range(5)]).to_batches()
    with documents_and_fates(context, "web/a.parquet") as file:
        file.keep(with_texts(batch, {1: "changed"}).slice(0, 2))
        file.lose(fates_table(batch.slice(2, 2), "quality", "dropped", rule=["short", "long"], score=1.0))
        last = batch.slice(4, 1).to_pylist()[0]
        file.lose(fate("quality", "failed", "no_attributes", last["id"], last["url"], "web", detail=""))
    assert file.counts == Counts(5, 2, {"long": 1, "short": 1}, 1) and file.counts.balanced
    assert [output.path for output in context.outputs] == ["ledger/web/a.parquet", "data/web/a.parquet"]
    assert pq.read_table(f"{root}/data/web/a.parquet")["text"].to_pylist() == ["text 0", "changed"]
    ledger = pq.read_table(f"{root}/ledger/web/a.parquet")
    assert ledger.schema.equals(LEDGER_SCHEMA)
    rows = ledger.to_pylist()
    assert [(row["rule"], row["score"], row["detail"]) for row in rows] == [
        ("short", 1.0, None),
        ("long", 1.0, None),
        ("no_attributes", None, None),
    ]
    assert [row["id"] for row in rows] == batch.column("id").to_pylist()[2:]
