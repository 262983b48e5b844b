"""Replies to held-out prompts: whether they end, how long they are, how much they repeat themselves.

A loss says nothing of this. Preference optimisation can rank pairs better and better while the model forgets to stop,
and a longer reply may be all that a policy was rewarded for. So stages let the model answer held-out prompts before and
after, with the same random numbers, and compare reply by reply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.job import ModelJob
from alignment.order import chunks, seed_of, share
from alignment.rollouts import Prompt, ReplySettings, Sampled, sample
from infra.config import Json
from infra.store.files import read_json, write_json
from training.engine import Engine
from training.intervals import Interval, mean_interval, wilson
from training.model import Decoder

Apply = Callable[[Callable[[Decoder], Any]], Any]
"""Calls a function with the model, as its engine wants it called."""
Columns = Callable[[Sampled, Sequence[int]], Sequence[Tensor]]
"""Further figures of each reply ``[B]`` to the prompts of these indices."""

RUN = 4
"""Tokens in a row that count as repeated when they occur in a reply again."""
FEWER_END = 0.05
OTHER_LENGTH = 1.5
"""A mean length that grows or shrinks by more than this factor is a warning."""
MORE_REPEATED = 0.1


@dataclass(frozen=True)
class ReplyFigures:
    """Figures of sampled replies, each ``[prompts]``: 1 where a reply ended, its tokens, its repetition."""

    finished: np.ndarray
    tokens: np.ndarray
    repeated: np.ndarray
    """Share of its runs of four tokens that it had before."""
    more: tuple[np.ndarray, ...] = ()

    def figures(self, seed: int) -> dict[str, dict[str, float | int]]:
        return {
            "finished": wilson(int(self.finished.sum()), len(self.finished)).as_dict(),
            "reply_tokens": mean_interval(self.tokens, seed).as_dict(),
            "repeated": mean_interval(self.repeated, seed).as_dict(),
        }


def repeated_share(reply: Sequence[int]) -> float:
    """Share, 0 to 1, of the runs of ``RUN`` tokens in a reply that occurred in it before."""
    runs = [tuple(reply[start : start + RUN]) for start in range(len(reply) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@torch.no_grad()
def answer_prompts(
    job: ModelJob[Any],
    apply: Apply,
    prompts: Sequence[Prompt],
    settings: ReplySettings,
    columns: Columns = lambda sampled, indices: (),
) -> ReplyFigures:
    """A sampled reply to each prompt, shared among the ranks and known to all. The weights must be ``gathered``: some ranks
    have fewer prompts and shorter replies than others."""
    number, found, width = len(prompts), dict[int, float](), 0
    for chunk, part in share(list(chunks(number, job.config.micro_batch)), job.ranks.rank, job.ranks.world_size):
        some = [prompts[index] for index in part]
        seed = seed_of(job.config.seed, "evaluation", chunk)
        sampled: Sampled = apply(partial(sample, prompts=some, settings=settings, seed=seed))
        repeated = torch.tensor([repeated_share(reply) for reply in sampled.replies])
        table = [sampled.finished, sampled.batch.mask.sum(1), repeated, *columns(sampled, part)]
        width = len(table)
        for column, values in enumerate(table):
            for index, value in zip(part, values.tolist(), strict=True):
                found[column * number + index] = float(value)
    # A rank without a chunk does not know how many figures there are.
    width = int(job.reduce(torch.tensor(float(width) * job.ranks.first, device=job.ranks.device)).item())
    finished, tokens, repeated_all, *more = np.split(job.gather(found, width * number), width)
    return ReplyFigures(finished, tokens, repeated_all, tuple(more))


def kept_answers(job: ModelJob[Any], file: str, answer: Callable[[], ReplyFigures]) -> ReplyFigures:
    """What a model says as it came: from a file of the work folder if an earlier attempt left it there."""
    path = job.request.work_dir / file
    there = path.exists()
    torch.distributed.barrier()  # all ranks have looked before the first writes
    if there:
        finished, tokens, repeated, *more = (np.asarray(column) for column in read_json(path))
        return ReplyFigures(finished, tokens, repeated, tuple(more))
    found = answer()
    if job.ranks.first:
        columns = (found.finished, found.tokens, found.repeated, *found.more)
        write_json(path, [column.tolist() for column in columns])
    return found


@dataclass(frozen=True)
class HeldOutPrompts:
    """Held-out prompts, the tokens of what people replied to them, and of the longest reply that is asked for."""

    prompts: Sequence[Prompt]
    human_tokens: np.ndarray
    limit: int

    def answer_before(self, job: ModelJob[Any], engine: Engine) -> ReplyFigures | None:
        """What the model says as it came; None where there is nothing to answer."""
        return kept_answers(job, "replies-before.json", lambda: self._answers(job, engine)) if self.prompts else None

    def answer(self, job: ModelJob[Any], engine: Engine) -> ReplyFigures | None:
        """What the engine's model says now; None where there is nothing to answer."""
        return self._answers(job, engine) if self.prompts else None

    def _answers(self, job: ModelJob[Any], engine: Engine) -> ReplyFigures:
        job.phase("answering held-out prompts")
        with engine.gathered():
            return answer_prompts(job, engine.evaluate, self.prompts, reply_settings(job, self.limit, 1.0))

    def report(
        self, job: ModelJob[Any], before: ReplyFigures | None, after: ReplyFigures | None, chosen_to_fit: bool = False
    ) -> dict[str, Json]:
        """The figures of both, and the job's warnings where the second promises less (see ``complaints``)."""
        if before is None or after is None:
            return {}
        for sentence in complaints(before, after, self.human_tokens, self.limit, job.config.seed, chosen_to_fit):
            job.warn(sentence)
        figures = {"before": before.figures(job.config.seed), "after": after.figures(job.config.seed)}
        finished = float((self.human_tokens <= self.limit).mean())
        people = {"finished": finished, "reply_tokens": float(self.human_tokens.mean())}
        return {"generation": {"prompts": len(self.prompts), "limit": self.limit, **figures, "people": people}}  # type: ignore[dict-item]


def reply_limit(tokens: int, positions: int) -> int:
    """At most half of what the model holds: the other half is for the prompt."""
    return min(tokens, positions // 2)


def reply_settings(job: ModelJob[Any], tokens: int, temperature: float) -> ReplySettings:
    return ReplySettings(tokens, temperature, tuple(job.stop_ids), job.tokenizer.pad_id)


def complaints(
    before: ReplyFigures,
    after: ReplyFigures,
    human_tokens: np.ndarray,
    limit: int,
    seed: int,
    chosen_to_fit: bool = False,
) -> list[str]:
    """What the second model does worse, beyond chance: a sentence each. ``human_tokens`` are the lengths of what people
    replied; the models were stopped after ``limit`` tokens. Where people's replies were ``chosen_to_fit`` the limit, that
    all of them end asks nothing of a model."""
    found, human = [], float((human_tokens <= limit).mean())
    ended, ends = float(before.finished.mean()), float(after.finished.mean())
    if _difference(after.finished - before.finished, seed).high < 0 and ends < ended - FEWER_END:
        found.append(
            f"the model unlearns to stop: {ended:.0%} of its replies to held-out prompts ended within {limit} tokens "
            f"before, {ends:.0%} after; lower the learning rate or train for fewer steps"
        )
    elif not chosen_to_fit and wilson(int(after.finished.sum()), len(after.finished)).high < human - FEWER_END:
        found.append(
            f"the model has not learnt to stop: {ends:.0%} of its replies to held-out prompts end within {limit} "
            f"tokens, {human:.0%} of people's; train for more steps"
        )
    longer = _difference(after.tokens - before.tokens, seed)
    was, tokens, people = (float(lengths.mean()) for lengths in (before.tokens, after.tokens, human_tokens))
    grows = ends >= ended - FEWER_END and longer.low > 0 and tokens > OTHER_LENGTH * was
    # Where most replies were cut off before, they are shorter because the model learns to stop.
    shrinks = ended > 0.5 and longer.high < 0 and tokens < was / OTHER_LENGTH
    if grows or shrinks:
        found.append(
            f"the model's replies {'grow' if grows else 'shrink'} from {was:.0f} to {tokens:.0f} tokens (people's: "
            f"{people:.0f}): look whether length is all that was learnt"
        )
    repeats = _difference(after.repeated - before.repeated, seed)
    if repeats.low > 0 and repeats.value > MORE_REPEATED:
        found.append(
            f"the model repeats itself: {after.repeated.mean():.0%} of the runs of {RUN} tokens in a reply were there "
            f"before, {before.repeated.mean():.0%} when it came; lower the learning rate"
        )
    return found


def _difference(values: np.ndarray, seed: int) -> Interval:
    return mean_interval(values.astype(float), seed)
