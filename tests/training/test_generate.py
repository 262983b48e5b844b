"""Generation: the cache, the batch and the order of endings change nothing; what is reported is what was drawn."""

import pytest
import torch

from infra.errors import HeadwaterError, InputError
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


def test_a_limit_beyond_all_room_takes_no_memory(model: Decoder) -> None:
    """It asked for a random number for each token that might have been."""
    room = model.config.max_position - len(PROMPTS[0])
    made, most = (generate(model, PROMPTS[:1], max_new_tokens=new, seed=5) for new in (10**13, room))
    assert made == most and len(made.tokens[0]) == room


def test_a_row_does_not_depend_on_its_neighbours(model: Decoder) -> None:
    together = generate(model, PROMPTS, max_new_tokens=24, seed=5, stop_ids=range(40, 60))
    assert len({len(tokens) for tokens in together.tokens}) > 1, "rows end at different times"
    alone = generate(model, PROMPTS[:1], max_new_tokens=24, seed=5, stop_ids=range(40, 60))
    assert together.tokens[0] == alone.tokens[0]
    assert generate(model, PROMPTS, max_new_tokens=24, seed=5, stop_ids=range(40, 60)) == together
    assert generate(model, PROMPTS, max_new_tokens=24, seed=6, stop_ids=range(40, 60)).tokens != together.tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neighbours_change_no_token_in_any_precision(dtype: torch.dtype, temperature: float) -> None:
    # Sizes that fill whole vectors, as real models have them.
    model = tiny_model(init_std=0.1, hidden_size=128, intermediate_size=192, max_position=256).to(dtype)
    random = torch.Generator().manual_seed(0)
    long = [torch.randint(8, 264, (size,), generator=random).tolist() for size in (60, 100, 130)]
    apart = 0
    for seed in range(3):
        prompt = torch.randint(8, 264, (3 + 20 * seed,), generator=random).tolist()
        how = {"max_new_tokens": 30, "temperature": temperature, "seed": seed}
        alone = generate(model, [prompt], **how)  # type: ignore[arg-type]
        for neighbours in ([prompt], long):
            beside = generate(model, [prompt, *neighbours], **how)  # type: ignore[arg-type]
            apart += beside.tokens[0] != alone.tokens[0]
            assert beside.log_probs[0] == pytest.approx(alone.log_probs[0], abs=1e-3)
    assert apart == 0


def test_each_row_has_settings_of_its_own(model: Decoder) -> None:
    settings = [
        Sampling(max_new_tokens=5, temperature=0),
        Sampling(max_new_tokens=30, seed=3, top_k=4, repetition_penalty=1.3),
        Sampling(max_new_tokens=12, seed=8, temperature=0.9, top_p=0.7),
        Sampling(max_new_tokens=20, seed=8, temperature=1.0),
    ]
    prompts = [*PROMPTS, PROMPTS[0]]

    def rows(prompts: list[list[int]], how: list[Sampling]) -> list[list[int]]:
        made: list[list[int]] = [[] for _ in prompts]
        for step in stream(model, prompts, how, stop_ids=(45, 46)):
            made[step.row].append(step.token)
        return made

    together = rows(prompts, settings)
    assert together == [rows([prompt], [how])[0] for prompt, how in zip(prompts, settings, strict=True)]
    assert all(len(made) <= how.max_new_tokens for made, how in zip(together, settings, strict=True))


def test_a_long_neighbour_takes_no_room(model: Decoder) -> None:
    made = generate(model, [[2] * 120, [2, 30]], max_new_tokens=50, temperature=0)
    assert [len(tokens) for tokens in made.tokens] == [8, 50]


def test_a_caller_can_close_a_row(model: Decoder) -> None:
    closed: set[int] = set()
    made: list[list[int]] = [[], []]
    for step in stream(model, PROMPTS[:2], Sampling(max_new_tokens=9, seed=1), closed=closed):
        made[step.row].append(step.token)
        if len(made[0]) == 4:
            closed.add(0)
    assert [len(row) for row in made] == [4, 9]
    assert made[1] == generate(model, PROMPTS[:2], max_new_tokens=9, temperature=0.8, seed=1).tokens[1]


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


def test_the_penalty_spares_the_tokens_that_end_a_reply(model: Decoder) -> None:
    """Prompts hold the end of every earlier turn: a penalty that counts it keeps replies from ending."""
    best = int(model.logits(model(torch.tensor([PROMPTS[0]]))[0, -1]).argmax())
    prompt = PROMPTS[0]
    with torch.no_grad():
        while best not in prompt:
            prompt = [best, *prompt]
            best = int(model.logits(model(torch.tensor([prompt]))[0, -1]).argmax())
    how = {"max_new_tokens": 1, "temperature": 0, "repetition_penalty": 100.0}
    assert generate(model, [prompt], **how).tokens != [[best]]  # type: ignore[arg-type]
    assert generate(model, [prompt], stop_ids=(best,), **how).tokens == [[best]]  # type: ignore[arg-type]
    assert generate(model, [prompt], stop_ids=(best,), penalise_stops=True, **how).tokens != [[best]]  # type: ignore[arg-type]


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


def test_a_model_that_overflows_is_said() -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.norm.weight.fill_(float("nan"))
    with pytest.raises(HeadwaterError, match="no finite probabilities"):
        generate(broken, PROMPTS, max_new_tokens=2)


def test_a_temperature_of_almost_nothing_takes_the_likeliest(model: Decoder) -> None:
    cold, greedy = (generate(model, PROMPTS, max_new_tokens=6, temperature=heat, seed=2).tokens for heat in (1e-40, 0))
    assert cold == greedy


def test_limits_of_the_context(model: Decoder) -> None:
    assert len(generate(model, [[2] * 120], max_new_tokens=50, seed=0).tokens[0]) == 8
    with pytest.raises(InputError, match="no room"):
        generate(model, [[2] * 128], max_new_tokens=1)
    with pytest.raises(InputError, match="token 264"):
        generate(model, [[2, 264]], max_new_tokens=1)
    with pytest.raises(InputError, match="no tokens"):
        generate(model, [[2], []], max_new_tokens=1)
    assert generate(model, [], max_new_tokens=1).tokens == []
