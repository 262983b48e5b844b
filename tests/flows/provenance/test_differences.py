"""What a reader sees who asks why a document was dropped as a duplicate."""

import random
from pathlib import Path

from flows.provenance.differences import difference_of
from flows.provenance.fates import DocumentFate, StageVerdict
from infra.store.dataset import Dataset
from pipeline.dedup import STAGE, DedupConfig
from tests.pipeline.dedup.corpora import document, edited, ledger, publish, sentence_words
from tests.support import run_shard_stage


def test_the_survivor_of_an_earlier_snapshot_is_shown_while_its_text_is_there(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = sentence_words(rng, 200)
    old = document("old", " ".join(words))
    new = document("new", " ".join(edited(rng, words, 1)), quality=0.9)
    fresh = document("fresh", " ".join(sentence_words(rng, 50)))
    first = run_shard_stage(
        STAGE, DedupConfig(), {"quality": publish(tmp_path / "q1", {"web/a": [old]})}, tmp_path / "d1"
    )
    quality = publish(tmp_path / "q2", {"web/a": [new, fresh]})
    config = DedupConfig(previous=(first.root,))
    second = run_shard_stage(STAGE, config, {"quality": quality}, tmp_path / "d2")
    fate = _fate(second, new["id"])
    found = difference_of(fate, [quality, second])
    assert found is not None
    sides = {hunk.side: hunk.text.strip() for hunk in found.hunks if hunk.side != "both"}
    assert sides["survivor"] in old["text"]
    assert sides["dropped"].startswith("new")
    assert 0.9 < found.similarity < 1
    (Path(first.root) / "manifest.json").unlink()
    assert difference_of(fate, [quality, second]) is None


def _fate(dataset: Dataset, identity: bytes) -> DocumentFate:
    row = ledger(dataset)[identity]
    verdict = StageVerdict("dedup", "dropped", row["rule"], row["score"], row["threshold"], row["survivor_id"].hex())
    return DocumentFate(identity.hex(), None, (verdict,))
