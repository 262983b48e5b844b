"""Generation: the cache, the batch and the order of endings change nothing; what is reported is what was drawn."""

import pytest
import torch

from infra.errors import InputError
from tests.training.folders import tiny_model
from training.generate import Sampling, generate, stream
from training.model import Decoder

PROMPTS = [[2, 30, 40, 50], [2, 61], [2, 70, 71, 72, 73, 74, 75]]


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_model(init_std=0.1)


def greedy_without_cache(model: Decoder, prompt: list[int], tokens: int) -> list[int]:
    row = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            row.append(int(model.logits(model(torch.tensor([row]))[:, -1]).argmax()))
    return row[len(prompt) :]


def test_greedy_equals_generation_without_a_cache(model: Decoder) -> None:
    made = generate(model, PROMPTS, max_new_tokens=20, temperature=0)
    assert made.tokens == [greedy_without_cache(model, prompt, 20) for prompt in PROMPTS]
    assert made.finished == [False] * 3


def test_a_row_does_not_depend_on_its_neighbours(model: Decoder) -> None:
    together = generate(model, PROMPTS, max_new_tokens=24, seed=5, stop_ids=range(40, 60))
    assert len({len(tokens) for tokens in together.tokens}) > 1, "rows end at different times"
    alone = generate(model, PROMPTS[:1], max_new_tokens=24, seed=5, stop_ids=range(40, 60))
    assert together.tokens[0] == alone.tokens[0]
    assert generate(model, PROMPTS, max_new_tokens=24, seed=5, stop_ids=range(40, 60)) == together
    assert generate(model, PROMPTS, max_new_tokens=24, seed=6, stop_ids=range(40, 60)).tokens != together.tokens


def test_a_stop_token_ends_a_row_and_is_kept(model: Decoder) -> None:
    stops = set(range(40, 60))
    made = generate(model, PROMPTS, max_new_tokens=30, seed=1, stop_ids=tuple(stops))
    for tokens, finished in zip(made.tokens, made.finished, strict=True):
        assert not stops & set(tokens[:-1])
        assert finished == (tokens[-1] in stops)
        assert finished or len(tokens) == 30


def test_log_probs_are_those_of_a_full_forward(model: Decoder) -> None:
    made = generate(model, PROMPTS, max_new_tokens=12, temperature=0.7, top_k=20, seed=2)
    for prompt, tokens, log_probs in zip(PROMPTS, made.tokens, made.log_probs, strict=True):
        with torch.no_grad():
            row = torch.tensor([prompt + tokens])
            full = model.logits(model(row))[0, len(prompt) - 1 : -1].log_softmax(-1)
        wanted = full.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(log_probs), wanted, atol=1e-4, rtol=1e-4)


def test_the_sampling_distribution_is_reported(model: Decoder) -> None:
    plain = generate(model, PROMPTS, max_new_tokens=8, seed=3)
    for log_probs, drawn in zip(plain.log_probs, plain.sample_log_probs, strict=True):
        assert drawn == pytest.approx(log_probs, abs=1e-4), "temperature 1, nothing filtered: the same distribution"
    filtered = generate(model, PROMPTS, max_new_tokens=8, seed=3, top_k=2, temperature=0.5)
    assert all(value > float("-inf") for row in filtered.sample_log_probs for value in row)
    assert sum(map(sum, filtered.sample_log_probs)) > sum(map(sum, filtered.log_probs))


def test_frequencies_follow_the_model(model: Decoder) -> None:
    rows = 3000
    made = generate(model, [PROMPTS[0]] * rows, max_new_tokens=1, seed=9)
    counts = torch.bincount(torch.tensor([tokens[0] for tokens in made.tokens]), minlength=264) / rows
    with torch.no_grad():
        wanted = model.logits(model(torch.tensor([PROMPTS[0]]))[0, -1]).softmax(-1)
    deviation = (wanted * (1 - wanted) / rows).sqrt()
    assert ((counts - wanted).abs() < 5 * deviation + 1 / rows).all()
    assert (counts - wanted).abs().sum() < 0.35, "about what chance alone gives with this many draws"


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [({"top_k": 3}, 3), ({"top_p": 1e-6}, 1), ({"min_p": 1.0}, 1), ({"temperature": 1e-3}, 1)],
)
def test_filters_bound_what_can_be_drawn(model: Decoder, limits: dict[str, float], allowed: int) -> None:
    made = generate(model, [PROMPTS[0]] * 200, max_new_tokens=1, seed=4, **limits)  # type: ignore[arg-type]
    with torch.no_grad():
        best = model.logits(model(torch.tensor([PROMPTS[0]]))[0, -1]).topk(allowed).indices.tolist()
    assert {tokens[0] for tokens in made.tokens} <= set(best)


def test_repetition_penalty_avoids_what_was_said(model: Decoder) -> None:
    free = generate(model, PROMPTS, max_new_tokens=40, temperature=0)
    penalised = generate(model, PROMPTS, max_new_tokens=40, temperature=0, repetition_penalty=50.0)
    assert sum(len(set(row)) for row in penalised.tokens) > sum(len(set(row)) for row in free.tokens)


def test_streaming_gives_the_same_tokens(model: Decoder) -> None:
    sampling = Sampling(max_new_tokens=10, temperature=1.0, seed=7)
    steps = [step.token for step in stream(model, PROMPTS[:1], sampling)]
    assert steps == generate(model, PROMPTS[:1], max_new_tokens=10, seed=7).tokens[0]
    model.train()
    iterator = stream(model, PROMPTS[:1], sampling)
    next(iterator)
    assert not torch.is_inference_mode_enabled(), "a suspended stream leaves the caller's mode alone"
    iterator.close()
    assert model.training


def test_limits_of_the_context(model: Decoder) -> None:
    assert len(generate(model, [[2] * 120], max_new_tokens=50, seed=0).tokens[0]) == 8
    with pytest.raises(InputError, match="no room"):
        generate(model, [[2] * 128], max_new_tokens=1)
    with pytest.raises(InputError, match="no tokens"):
        generate(model, [[2], []], max_new_tokens=1)
    assert generate(model, [], max_new_tokens=1).tokens == []
