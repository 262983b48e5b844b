"""Models with another tokenizer are measured on the text of the rows, over the same bytes."""

import math
from pathlib import Path

import numpy as np
import pytest

from infra.errors import InputError
from pipeline.shards.format import Row, shard_schema, write_shard
from pipeline.shards.reader import ShardSet
from pipeline.tokenizer import Tokenizer
from tests.training.folders import tiny_model, write_tokenizer
from tests.training.test_evaluate import VOCABULARY, real_tokenizer, uniform_model
from training.evaluate import compare_models, evaluate_model
from training.heldout_text import score_texts
from training.hub_format import save_model
from training.scoring import score_rows
from training.text_model import load_text_model

TEXTS = ["abcde fghij cab, déjà", "jihg 東京 abc " * 9, "a", "bead cafe " * 40]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    tokenizer = real_tokenizer(root / "tokenizer")
    (root / "shards").mkdir()
    schema = shard_schema(VOCABULARY, 160, {"tokenizer_digest": tokenizer.digest, "mixture": {}}, with_bytes=True)
    size = np.array([len(piece) for piece in tokenizer.token_bytes])
    rows = []
    for text in TEXTS:
        ids = np.array([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id])
        for piece in [ids[start : start + 161] for start in range(0, len(ids), 161)]:
            rows.append(Row([piece], int(size[piece[1:]].sum())))
    write_shard(root / "shards" / "validation-web.arrow", schema, iter(rows), 0)
    (root / "shards" / "stats.json").write_text("{}")
    save_model(tiny_model(vocab_size=VOCABULARY, max_position=256), root / "ours", root / "tokenizer")
    save_model(tiny_model(vocab_size=VOCABULARY, max_position=256), root / "stranger", root / "tokenizer")
    (root / "stranger" / "tokenizer.model").unlink()
    return root


def test_the_text_scores_as_the_ids_do_where_the_tokenizer_is_the_same(home: Path) -> None:
    tokenizer, model = Tokenizer.load(home / "tokenizer"), load_text_model(home / "ours", "cpu")
    shards = ShardSet.open(home / "shards", "validation-web")
    rows = shards.rows(np.arange(len(shards)))
    by_id, by_text = score_rows(model.decoder, rows), score_texts(model, rows, tokenizer)
    assert by_text.bytes.tolist() == by_id.bytes.tolist()
    whole = [index for index, boundary in enumerate(rows.input_ids[:, 0]) if boundary == tokenizer.bos_id]
    assert len(whole) == len(TEXTS) < len(rows.lengths), "some rows go on with a document from another row"
    assert by_text.targets[whole].tolist() == by_id.targets[whole].tolist()
    assert by_text.nats[whole] == pytest.approx(by_id.nats[whole], rel=1e-4)


def test_a_stranger_is_measured_and_compared(home: Path) -> None:
    where = {"shards": home / "shards", "tokenizer": home / "tokenizer"}
    (task, *_) = evaluate_model(home / "stranger", **where)["tasks"]
    assert (task["task"], task["metric"]) == ("web", "bits_per_byte")
    (difference,) = compare_models(home / "stranger", home / "ours", **where)["tasks"]
    assert abs(difference["value"]) < 0.1, "the same weights; only what continues another row is read otherwise"
    with pytest.raises(InputError, match="not the one that the shards were written with"):
        evaluate_model(home / "stranger", shards=home / "shards")


def test_windows_cover_a_text_longer_than_the_context(home: Path, tmp_path: Path) -> None:
    """All logits equal: every token costs the same, so the sum says how many were scored."""
    save_model(uniform_model().to("cpu"), tmp_path / "model", write_tokenizer(tmp_path / "tokenizer"))
    model = load_text_model(tmp_path / "model", "cpu")
    assert model.decoder.config.max_position == 128
    shards = ShardSet.open(home / "shards", "validation-web")
    rows = shards.rows(np.arange(len(shards)))
    scores = score_texts(model, rows, Tokenizer.load(home / "tokenizer"))
    # A token a byte: every byte is a target once, also beyond the 128 positions.
    assert scores.targets.max() > 128
    whole = rows.input_ids[:, 0] == 2
    assert scores.targets[whole].tolist() == scores.bytes[whole].tolist()
    assert scores.nats[whole] == pytest.approx(scores.bytes[whole] * math.log(VOCABULARY), rel=1e-4)
