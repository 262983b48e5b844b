"""Workers find every kernel loaded: with the very types the stage calls it with."""

import random
from pathlib import Path
from types import ModuleType

from pipeline.dedup import STAGE, DedupConfig, compiled, copies, gather, minhash, shingles, similarity, stars
from tests.pipeline.dedup.corpora import document, edited, publish, sentence_words
from tests.support import run_shard_stage

MODULES: tuple[ModuleType, ...] = (copies, gather, minhash, shingles, similarity, stars)


def loaded() -> set[tuple[str, str]]:
    kernels = ((name, kernel) for module in MODULES for name, kernel in vars(module).items())
    return {(name, str(types)) for name, kernel in kernels for types in getattr(kernel, "signatures", ())}


def test_a_run_loads_no_kernel_that_was_not_loaded_before(tmp_path: Path) -> None:
    """But for those that only a group beyond the memory of a worker needs."""
    for module in MODULES:
        for kernel in vars(module).values():
            if hasattr(kernel, "signatures") and hasattr(kernel, "_reset_overloads"):
                kernel._reset_overloads()
    compiled.warm()
    before = loaded()
    assert before
    rng = random.Random(1)
    words = [sentence_words(rng, 100) for _ in range(20)]
    rows = [document(f"a{i}", " ".join(w), url="https://x.org/1" if i < 3 else None) for i, w in enumerate(words)]
    rows += [document(f"b{i}", " ".join(edited(rng, w, 1))) for i, w in enumerate(words)]
    rows += [document(f"c{i}", "  ".join(w)) for i, w in enumerate(words)]
    run_shard_stage(STAGE, DedupConfig(), {"quality": publish(tmp_path / "q", {"web/a": rows})}, tmp_path / "d")
    assert loaded() == before
