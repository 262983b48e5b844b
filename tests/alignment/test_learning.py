"""Every method learns what it is for, on tasks small enough to see the answer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alignment.conversations import Conversation, Message, cut, render_prompt, stop_ids
from alignment.dpo import DpoConfig, dpo_losses
from alignment.losses import bradley_terry
from alignment.order import seed_of, step_indices
from alignment.packing import pack
from alignment.pairs import PairTokens, halves, pair_batch
from alignment.ppo_update import ActorCritic, PpoModels, PpoRules, collect, update
from alignment.replies import Replies, RewardModel, reply_log_probs
from alignment.reward import reward_losses
from alignment.rollouts import ReplySettings, sample
from alignment.sft import PackedBatch, sft_losses
from tests.alignment.toys import LetterTokenizer, tiny_decoder
from training.create_engine import create_engine
from training.engine import Engine
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks, init_distributed
from training.schedule import ScheduleConfig

TOKENIZER = LetterTokenizer()
ENDS = tuple(stop_ids(TOKENIZER))
SETTINGS = ReplySettings(max_new_tokens=12, temperature=1.0, stop_ids=ENDS, pad_id=TOKENIZER.pad_id)
PROMPTS = [render_prompt(TOKENIZER, [Message("user", text)]) for text in ("hi", "who", "tell", "ok then")]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


def engine_of(model: torch.nn.Module, ranks: Ranks, lr: float, steps: int) -> Engine:
    optimizer = OptimizerConfig(lr=lr, weight_decay=0.0, schedule=ScheduleConfig(warmup_steps=2, min_lr_ratio=1.0))
    return create_engine(model, optimizer, ParallelConfig(zero_stage=0, dtype="fp32"), total_steps=steps, ranks=ranks)


def learn_to_answer(ranks: Ranks, steps: int) -> Engine:
    """A model fine-tuned on a few short exchanges."""
    talks = [
        Conversation(str(n), (Message("user", "say " + word), Message("assistant", word)))
        for n, word in enumerate(["a", "bb", "ccc", "dog", "yes"])
    ]
    rows = pack([piece for talk in talks for piece in cut(TOKENIZER, talk, 64).pieces], 64, TOKENIZER.pad_id)
    engine = engine_of(tiny_decoder(), ranks, lr=1e-2, steps=steps)
    batch = PackedBatch.of(rows, CPU)
    for _ in range(steps):
        engine.train_step([batch], sft_losses, lambda batch: batch.tokens)
    return engine


def test_fine_tuning_learns_to_answer_and_to_stop(ranks: Ranks) -> None:
    engine = learn_to_answer(ranks, 60)
    prompts = [render_prompt(TOKENIZER, [Message("user", text)]) for text in ("say bb", "say dog")]
    likeliest = ReplySettings(12, 0.01, ENDS, TOKENIZER.pad_id)
    drawn = sample(engine.model, prompts, likeliest, seed=0)  # type: ignore[arg-type]
    assert drawn.finished.all(), "the end of a reply was not learnt"
    assert [TOKENIZER.decode(reply) for reply in drawn.replies] == ["bb", "dog"]


class CountsA:
    """A rule in the place of a reward model: how much of the reply is the letter a."""

    def judge(self, batch: Replies) -> Tensor:
        return ((batch.targets == TOKENIZER.encode("a")[0]) & batch.mask).sum(1) / 6


def test_ppo_finds_what_is_rewarded(ranks: Ranks) -> None:
    def policy() -> torch.nn.Module:
        return tiny_decoder(5).requires_grad_(True)

    both = ActorCritic(policy(), RewardModel(tiny_decoder(6)), critic_lr_scale=2.0)  # type: ignore[arg-type]
    rules = PpoRules(update_epochs=2, missing_end_penalty=0.5)
    engine = engine_of(both, ranks, lr=3e-3, steps=40)
    models = PpoModels(engine, policy().requires_grad_(False), CountsA())  # type: ignore[arg-type]
    rewards, kl = [], []
    for number in range(20):
        chunk = collect(models, PROMPTS * 16, SETTINGS, rules, seed_of("toy", number))
        rewards.append(chunk.scores.mean().item())
        kl.append(chunk.kl.mean().item())
        update(engine.train_step, [chunk], rules, 1.0, 0.01, lambda total: total, policy_learns=number > 0)
    assert kl[0] == kl[1] == 0, "the policy moved while only the critic was to learn"
    assert np.mean(rewards[-3:]) > 3 * np.mean(rewards[:2])
    assert kl[-1] > 0.5


class SeesEnds:
    """1 for a reply whose last token is an end."""

    def judge(self, batch: Replies) -> torch.Tensor:
        last = batch.input_ids[torch.arange(len(batch.lengths)), batch.lengths - 1]
        return torch.isin(last, torch.tensor(ENDS)).float()


def test_a_reply_that_was_cut_off_can_be_judged_as_if_it_ended(ranks: Ranks) -> None:
    both = ActorCritic(tiny_decoder(5), RewardModel(tiny_decoder(6)), critic_lr_scale=1.0)
    models = PpoModels(engine_of(both, ranks, lr=3e-3, steps=1), tiny_decoder(5), SeesEnds())
    as_is, as_ended = (collect(models, PROMPTS, SETTINGS, PpoRules(judge_as_ended=on), 3) for on in (False, True))
    finished = as_is.sampled.finished
    assert not finished.all() and as_is.scores.tolist() == finished.float().tolist()
    assert as_ended.scores.tolist() == [1.0] * len(PROMPTS)
    assert (as_ended.rewarded == torch.where(finished, 1.0, 0.0)).all(), "the penalty for not ending stays"
    assert torch.equal(as_ended.batch.input_ids, as_is.batch.input_ids), "what is learnt from is what was sampled"


def test_a_high_coefficient_of_kl_holds_the_policy_back(ranks: Ranks) -> None:
    def run(kl_coefficient: float) -> float:
        both = ActorCritic(tiny_decoder(5), RewardModel(tiny_decoder(6)), critic_lr_scale=1.0)
        engine = engine_of(both, ranks, lr=3e-3, steps=16)
        models = PpoModels(engine, tiny_decoder(5), CountsA())
        rules = PpoRules()
        for number in range(8):
            chunk = collect(models, PROMPTS * 8, SETTINGS, rules, seed_of("price", number))
            update(engine.train_step, [chunk], rules, 1.0, kl_coefficient, lambda total: total)
        return chunk.kl.mean().item()

    assert run(2.0) < 0.5 * run(0.0)


def toy_pairs(number: int) -> list[PairTokens]:
    """The chosen reply ends with an exclamation mark, the rejected one with a question mark."""
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(number):
        words = ["".join(random.choice(list("abcdefg"), size=random.integers(1, 5))) for _ in range(2)]
        chosen, rejected = ([*TOKENIZER.encode(word + mark), ENDS[0]] for word, mark in zip(words, "!?", strict=True))
        pairs.append(PairTokens(PROMPTS[random.integers(4)], chosen, rejected))
    return pairs


def test_the_reward_model_separates_what_can_be_separated(ranks: Ranks) -> None:
    pairs = toy_pairs(96)
    engine = engine_of(RewardModel(tiny_decoder(1)), ranks, lr=3e-3, steps=30)
    for step in range(30):
        batch = pair_batch(pairs, step_indices(64, 16, 0, step), TOKENIZER.pad_id, CPU)
        engine.train_step([batch], reward_losses, lambda batch: batch.pairs)
    unseen = pair_batch(pairs, np.arange(64, 96), TOKENIZER.pad_id, CPU)
    figures = engine.evaluate(reward_losses, unseen)
    assert figures["accuracy"] / 32 > 0.9


def test_dpo_widens_the_margin_on_pairs_it_has_not_seen(ranks: Ranks) -> None:
    pairs, config = toy_pairs(96), DpoConfig(chosen_loss=0)
    engine, reference = engine_of(tiny_decoder(1), ranks, lr=1e-3, steps=30), tiny_decoder(1)

    def losses(model: torch.nn.Module, batch: object) -> dict[str, Tensor]:
        with torch.no_grad():
            known = halves(reply_log_probs(reference, batch.replies).sum(1))  # type: ignore[attr-defined]
        return dpo_losses(model, batch, torch.stack(known, 1), config)  # type: ignore[arg-type]

    unseen = pair_batch(pairs, np.arange(64, 96), TOKENIZER.pad_id, CPU)
    assert engine.evaluate(losses, unseen)["margin"].item() == 0
    for step in range(30):
        batch = pair_batch(pairs, step_indices(64, 16, 0, step), TOKENIZER.pad_id, CPU)
        engine.train_step([batch], losses, lambda batch: batch.pairs)
    assert engine.evaluate(losses, unseen)["margin"].item() / 32 > 0.2


def test_rollouts_are_the_same_again_and_differ_from_step_to_step() -> None:
    model = tiny_decoder(3)
    first = sample(model, PROMPTS, SETTINGS, seed_of(0, "ppo", 3, 0)).replies
    assert sample(model, PROMPTS, SETTINGS, seed_of(0, "ppo", 3, 0)).replies == first
    assert sample(model, PROMPTS, SETTINGS, seed_of(0, "ppo", 4, 0)).replies != first
    # A prompt's reply does not depend on what the others say.
    assert sample(model, [PROMPTS[0], PROMPTS[3]], SETTINGS, seed_of(0, "ppo", 3, 0)).replies[0] == first[0]


def test_a_reply_that_never_ends_is_worth_less() -> None:
    from alignment.rollouts import rewarded

    finished = torch.tensor([True, False])
    assert rewarded(torch.tensor([9.0, 9.0]), finished, 1.0, 5.0).tolist() == [5.0, 4.0]


def test_scores_are_normalised() -> None:
    decoder, score = tiny_decoder(4), torch.randn(1, 32)
    batch = pair_batch(toy_pairs(8), np.arange(8), TOKENIZER.pad_id, CPU).replies
    raw = RewardModel(decoder, score).judge(batch)
    same = RewardModel(decoder, score, mean=raw.mean().item(), std=raw.std().item()).judge(batch)
    torch.testing.assert_close(same, (raw - raw.mean()) / raw.std())
    assert bradley_terry(raw, raw).item() == pytest.approx(len(raw) * np.log(2))
