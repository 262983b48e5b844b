"""GRPO: the policy tries several replies to each problem, and those that are better than their group become likelier.

What is right is checked, not judged (``alignment.verify``), so no reward model and no critic are trained. Each round samples
groups of replies to training problems and takes a clipped step (``alignment.grpo_update``). Before and after, the model
answers held-out problems without chance; the share that it solves is the stage's figure.

Rounds, problems and random numbers are functions of (seed, round), so a resumed job goes on as if nothing had happened.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from alignment.best import Figure
from alignment.conversations import is_held_out, render_prompt
from alignment.data import commonest, outside_digests
from alignment.generation import ReplyFigures, answer_prompts, kept_answers, reply_settings
from alignment.grpo_update import Attempt, Experience, GrpoRules, attempt, experience, update
from alignment.health import CollapseRules, CollapseWatch
from alignment.job import Addresses, ModelJob, TuningConfig, run_model_job
from alignment.loop import engine_of, tune
from alignment.order import chunks, seed_of, share, step_indices
from alignment.records import Reading, find
from alignment.rollouts import Prompt, ReplySettings, Sampled
from alignment.turns import Conversation
from alignment.verify import Check, Problem, read_problems, scores
from infra.config import Execution
from infra.errors import InputError
from infra.stage import JobStage
from infra.store.address import dataset_inputs
from training.engine import Engine, StepResult
from training.intervals import mean_interval, wilson
from training.loader import StepData
from training.loop import Batches, TrainingTask, TrainStep, publish_model
from training.model import Decoder
from training.recorder import IterationResult


class GrpoConfig(TuningConfig, GrpoRules):
    """Reinforcement learning from rewards that can be checked."""

    problems: Addresses = ("dataset://sums/problems.jsonl",)
    """Files of {prompt, answer or tests}: paths, files of an input dataset, or datasets of the hub."""
    checks: tuple[Check, ...] = (Check(),)
    """What replies are rewarded for. The first one says whether a problem is solved."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of problems kept from training, by hash of their id."""
    collapse: CollapseRules = CollapseRules()
    """When the run is given up, and goes back to its last healthy checkpoint."""
    evaluation_problems: int = Field(default=256, ge=1)
    """Held-out problems that are answered."""
    rounds: int = Field(default=100, ge=1)
    """Rounds of sampling and updating."""
    batch_size: int = Field(default=32, ge=1)
    """Problems of one round, over all ranks."""
    micro_batch: int = Field(default=64, ge=2)
    """Replies sampled together and taken through one forward and backward pass; whole groups."""
    lr: float = Field(default=2e-4, gt=0)
    """Peak learning rate of the policy. 7B models: 1e-6."""
    max_reply_tokens: int = Field(default=64, ge=1)
    """Longest sampled reply."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the policy."""
    validate_every: int = Field(default=20, ge=1)
    """Rounds between measurements on the held-out problems; publish best chooses among them."""
    checkpoint_every: Annotated[int, Execution()] = Field(default=20, ge=1)
    """Rounds between checkpoints."""

    @model_validator(mode="after")
    def _rounds_are_shared(self) -> "GrpoConfig":
        """Chunks are whole groups, and every share of the ranks must have the same number of them, at least one a minibatch."""
        if self.micro_batch % self.group_size:
            raise ValueError(
                f"{self.micro_batch} replies are no whole number of groups of {self.group_size}; make micro_batch a multiple "
                "of group_size"
            )
        shares = self.parallel().mesh(self.processes).row_shares
        number = -(-self.batch_size * self.group_size // self.micro_batch)
        if number % shares or number // shares < self.minibatches:
            raise ValueError(
                f"{number} chunks of {self.micro_batch} replies cannot be shared by {shares} ranks in {self.minibatches} "
                "minibatches; make batch_size × group_size a multiple of micro_batch × ranks × minibatches"
            )
        return self


STAGE = JobStage(
    name="grpo",
    code_version=2,  # 2: numbers as TeX writes them, choices in other languages, nothing out of thoughts
    config=GrpoConfig,
    inputs=lambda config: config.starts_from("sft") | dataset_inputs(config.problems),
    external=lambda config: outside_digests(*config.problems, base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.grpo"),
    description="Reinforcement learning from rewards that can be checked: numbers, choices, tests, a rule of one's own.",
)

Chunk = tuple[int, Sequence[int]]
"""Its number within the draw, and the problems that are tried together."""


@dataclass(frozen=True)
class Round:
    """All that a round needs."""

    job: ModelJob[GrpoConfig]
    engine: Engine
    reference: Decoder | None
    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    settings: ReplySettings

    def chunks(self, number: int, draw: int) -> list[Chunk]:
        """This rank's problems of a round, those of like length together."""
        config, mesh = self.job.config, self.engine.mesh
        seed = config.seed if draw == 0 else seed_of(config.seed, "draw", draw)
        drawn: list[int] = step_indices(len(self.problems), config.batch_size, seed, number).tolist()
        chosen = sorted(drawn, key=lambda index: (len(self.prompts[index]), index))
        parts = list(chunks(config.batch_size, config.micro_batch // config.group_size))
        mine = share(parts, mesh.row_share(self.engine.ranks.rank), mesh.row_shares)
        return [(chunk, [chosen[place] for place in part]) for chunk, part in mine]

    def rate(self, problems: Sequence[int], replies: Sequence[Sequence[int]]) -> Tensor:
        """What each check gives each reply ``[checks, replies]``. The tokens that end a reply are no part of it."""
        stops = set(self.settings.stop_ids)
        bare = [reply[:-1] if reply and reply[-1] in stops else reply for reply in replies]
        texts = [self.job.tokenizer.decode(reply).strip() for reply in bare]
        tried = [self.problems[index] for index in problems]
        return torch.tensor([scores(check, tried, texts) for check in self.job.config.checks])

    def attempt(self, number: int, draw: int, chunk: Chunk) -> Attempt:
        config, (place, indices) = self.job.config, chunk
        seed = seed_of(config.seed, "grpo", number, draw, place)
        weights = torch.tensor([check.weight for check in config.checks])
        prompts = [self.prompts[index] for index in indices]
        return attempt(self.engine, indices, prompts, self.rate, weights, self.settings, config, seed)


def train(job: ModelJob[GrpoConfig]) -> None:
    """The stage in one rank: rounds of sampling and updating, figures, model."""
    config = job.config
    job.phase("reading problems")
    training, held_out = read_material(job)
    reference = job.base_model(frozen=True) if config.kl_coefficient else None
    engine = engine_of(job, job.base_model(), config.rounds * config.steps)
    settings = reply_settings(job, config.max_reply_tokens, config.temperature)
    rounds = Round(job, engine, reference, *training, settings)
    asked = replace(rounds, problems=held_out[0], prompts=held_out[1], settings=replace(settings, temperature=0.0))
    before = kept_answers(job, "answers-before.json", lambda: answers(asked))
    watch = CollapseWatch(config.collapse)

    def validate() -> dict[str, float]:
        return {"held_out_solved": float(answers(asked).more[0].mean())}

    task = TrainingTask(
        Batches(lambda number: rounds.chunks(number, 0), config.batch_size),
        partial(play, rounds),
        validate,
        config.validate_every,
        seq_len=max(map(len, rounds.prompts)) + config.max_reply_tokens,
        steps=config.steps,
        collapsed=watch.see,
        remembers={"watch": watch},
    )
    tune(job, engine, task, Figure("held_out_solved", noise=0.02))
    job.stats["rounds"] = config.rounds
    report(job, before, answers(asked))
    publish_model(job, engine, job.model_folder)
    job.finish()


Material = tuple[list[Problem], list[Prompt]]


def read_material(job: ModelJob[GrpoConfig]) -> tuple[Material, Material]:
    """Problems to train on and to measure on, with their prompts: those after which the model has room for a reply."""
    config, reading = job.config, Reading()
    files = [file for address in config.problems for file in find(address, job.request.inputs)]
    sides: tuple[Material, Material] = (([], []), ([], []))
    room, lost = job.position_limit - config.max_reply_tokens, Counter[str]()
    for problem in (each for file in files for each in read_problems(file, config.checks, reading)):
        try:
            prompt = render_prompt(job.tokenizer, problem.prompt)
        except InputError:  # a template that takes no system turn, or wants speakers to alternate
            lost["template_refuses"] += 1
            continue
        if len(prompt) > room:
            lost["too_long"] += 1
            continue
        problems, prompts = sides[is_held_out(Conversation(problem.id, problem.prompt), config.held_out_fraction)]
        problems.append(problem)
        prompts.append(prompt)
    lost.update(reading.refused)
    if not sides[0][0] or not sides[1][0]:
        raise InputError(
            f"there are too few problems to train on and to measure: {reading.read} could be read"
            + (f", of the lines {commonest(lost)} cannot be used{reading.example}" if lost else ""),
            where=", ".join(config.problems),
            remedy="Give more problems, or mend the file: each wants a prompt and what the checks compare with.",
        )
    if lost:
        job.warn(f"problems that cannot be used: {commonest(lost)}{reading.example}")
    problems, prompts, most = *sides[1], config.evaluation_problems
    job.stats |= {"problems": {"train": len(sides[0][0]), "held_out": min(most, len(problems))}, "refused": dict(lost)}
    return sides[0], (problems[:most], prompts[:most])


def play(rounds: Round, step: TrainStep, data: StepData[Chunk]) -> IterationResult:
    """One round: groups of replies to its problems, then a few optimizer steps on them."""
    config, number = rounds.job.config, data.consumed // rounds.job.config.batch_size
    learnt: list[Experience] = []
    with rounds.engine.gathered():
        tried = draw_groups(rounds, number, data.batches)
        enough = any_mixed(rounds, tried)
        for each in tried:
            keep = each.mixed if config.how.dynamic and enough else torch.ones_like(each.mixed)
            learnt.append(experience(each, keep, rounds.engine, rounds.reference, rounds.settings, config))
    result = update(step, learnt, config, rounds.settings)
    figures, tokens = round_figures(rounds, tried, result)
    return IterationResult(result, tokens * config.update_epochs, figures)


def draw_groups(rounds: Round, number: int, first: Sequence[Chunk]) -> list[Attempt]:
    """Groups of replies to the round's problems; under dynamic sampling to further ones, until as many teach something."""
    config = rounds.job.config
    tried = [rounds.attempt(number, 0, chunk) for chunk in first]
    for draw in range(1, config.most_draws if config.how.dynamic else 1):
        if any_mixed(rounds, tried) >= config.batch_size:
            break
        tried += [rounds.attempt(number, draw, chunk) for chunk in rounds.chunks(number, draw)]
    return tried


def any_mixed(rounds: Round, tried: Sequence[Attempt]) -> int:
    """Groups of all ranks that teach something."""
    mixed = torch.tensor(float(sum(int(each.mixed.sum()) for each in tried)), device=rounds.job.ranks.device)
    return int(rounds.engine.total(mixed))


def round_figures(rounds: Round, tried: Sequence[Attempt], result: StepResult) -> tuple[dict[str, float], float]:
    """Means over the replies of all ranks and the last update's losses; and the tokens of all prompts with replies."""
    checks = rounds.job.config.checks
    sums = sum(
        torch.cat(
            [
                torch.stack(
                    [
                        torch.tensor(float(each.rewards.numel())),
                        each.rewards.sum(),
                        each.mixed.sum() * float(each.rewards.shape[1]),
                        each.sampled.finished.sum().float().cpu(),
                        torch.tensor(float(each.sampled.batch.tokens)),
                        each.sampled.batch.lengths.sum().float().cpu(),
                    ]
                ),
                each.marks.sum(1),
            ]
        ).double()
        for each in tried
    )
    assert isinstance(sums, Tensor)
    count, reward, mixed, finished, tokens, everything, *marks = rounds.engine.total(
        sums.to(rounds.job.ranks.device)
    ).tolist()
    losses = dict(result.losses)
    learnt = losses.pop("tokens") or 1.0
    figures = {
        "reward": reward / count,
        "solved": marks[0] / count,
        "teaching_groups": mixed / count,
        "finished": finished / count,
        "reply_tokens": tokens / count,
        "entropy": losses.pop("surprise") / learnt,
        "kl_per_token": losses.pop("kl") / learnt,
        "clipped": losses.pop("clipped") / learnt,
        "approx_kl": losses.pop("approx_kl") / learnt,
    }
    names = [check.check for check in checks]
    figures |= {f"check/{name}": mark / count for name, mark in zip(names, marks, strict=True) if len(names) > 1}
    return figures, everything


@torch.no_grad()
def answers(asked: Round) -> ReplyFigures:
    """The likeliest reply to each held-out problem, and what each check gives it."""

    def marks(sampled: Sampled, problems: Sequence[int]) -> list[Tensor]:
        return list(asked.rate(problems, sampled.replies))

    asked.job.phase("answering held-out problems")
    with asked.engine.gathered():
        return answer_prompts(asked.job, asked.engine.evaluate, asked.prompts, asked.settings, marks)


def report(job: ModelJob[GrpoConfig], before: ReplyFigures, after: ReplyFigures) -> None:
    """What held-out problems became of, before and after."""

    def side(replies: ReplyFigures) -> dict[str, Any]:
        solved, *_ = replies.more
        checks = {check.check: float(mark.mean()) for check, mark in zip(job.config.checks, replies.more, strict=True)}
        found = {"solved": wilson(int((solved == 1).sum()), len(solved)).as_dict(), "checks": checks}
        return found | replies.figures(job.config.seed)

    gain = mean_interval(after.more[0] - before.more[0], job.config.seed)
    figures = {"before": side(before), "after": side(after), "gain": gain.as_dict()}
    if gain.high < 0:
        job.warn(f"GRPO lowered the share of held-out problems that are solved by {-gain.value:.1%}")
    job.publish_figures("grpo.json", figures)


if __name__ == "__main__":
    run_model_job(train, GrpoConfig)
