"""lm-evaluation-harness measures a served model through its ``local-completions``, and finds what the model itself says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.web.site import Site
from tests.flows.web.sites import running, site_with_models
from training.scoring import score_continuations

pytestmark = pytest.mark.slow
completions = pytest.importorskip("lm_eval.models.openai_completions")

PAIRS = [("Once upon a", " time"), ("The mill by the river", " turned all day"), ("Ä", "öü"), ("", "Once")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_with_models(tmp_path_factory.mktemp("harness"), {"plain": None}) as made:
        yield made


def test_likelihoods_and_generation_are_the_models_own(site: Site) -> None:
    from lm_eval.api.instance import Instance

    model = site.models["plain"].model
    folder = Path(site.models["plain"].dataset)
    with running(site) as address:
        harness = completions.LocalCompletionsAPI(
            model="plain",
            base_url=f"{address}/v1/completions",
            tokenizer=str(folder),
            tokenizer_backend="huggingface",
            max_length=256,
            batch_size=2,
        )
        asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(PAIRS)]
        found = harness.loglikelihood(asked)
        until = ("Once upon a", {"until": ["e"], "max_gen_toks": 12, "temperature": 0})
        (written,) = harness.generate_until([Instance("generate_until", {}, until, 0)])
    rows = []
    for context, continuation in PAIRS:
        before, whole = harness.tok_encode(context), harness.tok_encode(context + continuation)
        before = before or [model.special.eos if model.special.bos is None else model.special.bos]
        rows.append((before, whole[len(before) :] if context else harness.tok_encode(continuation)))
    right = score_continuations(model.decoder, rows)
    for (value, greedy), own in zip(found, right, strict=True):
        assert value == pytest.approx(-own.nats, abs=1e-2)
        assert greedy == own.likeliest
    assert "e" not in written
