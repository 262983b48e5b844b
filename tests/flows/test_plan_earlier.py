"""A plan looks at the earlier datasets that a stage is to be built on, before anything runs."""

import json
from pathlib import Path

from flows.recipe import load_recipe
from flows.start import run_in_workspace
from infra.planning import Action, StageSelection, plan
from infra.store.store import Store

WORDS = [
    "the",
    "miller",
    "of",
    "village",
    "river",
    "bank",
    "bridge",
    "old",
    "new",
    "stone",
    "wood",
    "water",
    "wheel",
    "mill",
]


def test_shards_and_indexes_that_do_not_fit_are_refused_by_the_plan(tmp_path: Path) -> None:
    texts = (" ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 40)) + f" {row}" for row in range(60))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sources = [{"name": "mine", "kind": "jsonl", "address": str(rows), "profile": "none"}]
    recipe = {
        "ingest": {"sources": sources},
        "dedup": {"near": False},
        "tokenizer": {"vocab_size": 380},
        "shards": {"seq_len": 16},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"execution": {"workers": 1}, "stages": recipe}))
    store = Store.at(tmp_path / "work")
    done = run_in_workspace(load_recipe(str(path)), StageSelection(), store, use_prefect=False, quiet=True).datasets

    def planned(stage: str, *overrides: str) -> tuple[Action, str]:
        entries = plan(load_recipe(str(path), overrides).nodes, store, StageSelection(), "mine")
        return next((entry.action, entry.reason) for entry in entries if entry.stage == stage)

    grown = f"shards.append_to=shards/{done['shards'].manifest.fingerprint}"
    assert planned("shards", grown)[0] is Action.RUN
    action, reason = planned("shards", grown, "shards.seq_len=32")
    assert action is Action.BLOCKED and "seq_len is 16 there and 32 here" in reason
    action, reason = planned("shards", grown, "tokenizer.vocab_size=385")
    assert action is Action.BLOCKED and "vocab_size is 380 there and 385 here" in reason
    assert planned("shards", "shards.append_to=shards/0123456789ab")[0] is Action.BLOCKED
    rows.write_text(rows.read_text() + json.dumps({"text": "one more"}) + "\n")
    assert planned("shards", grown)[0] is Action.RUN, "whether the tokenizer will be the same one is not known yet"
    earlier = f"dedup.previous=[dedup/{done['dedup'].manifest.fingerprint}]"
    assert planned("dedup", earlier)[0] is Action.RUN
    action, reason = planned("dedup", earlier, "dedup.ngram=3")
    assert action is Action.BLOCKED and "ngram is 5 there and 3 here" in reason
