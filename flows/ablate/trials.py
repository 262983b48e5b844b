"""Trials: every arm trained with every seed at every rate, and measured.

    trial    an ordinary run of the stage ``pretrain`` and one of ``answers``: published, never done twice, resumed after a kill
    group    the trials of one arm and seed, one after the other; groups run side by side, each training in one thread

An ``anneal`` has a trunk for each rate besides, trained before the branches.
"""

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from flows.ablate.corpora import Corpus
from flows.ablate.lab import Lab, trial_config, trunk_arm, trunk_config
from flows.execute import resolve_inputs, run_directly
from infra.launch.spec import JobEnd, JobHandle, Launcher, OnTick
from infra.progress import Pace, Reporter
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.work import RunContext
from training import answers, pretrain


@dataclass(frozen=True)
class Trial:
    """One model."""

    arm: str
    seed: int
    """The lab's number of it. The A/A arm's trainings have seeds of their own (``config.seed``)."""
    rate: float
    config: pretrain.PretrainConfig

    @property
    def name(self) -> str:
        return f"{self.arm}-s{self.seed}-r{self.rate:g}"


@dataclass(frozen=True)
class Measured:
    """A trial that is done."""

    trial: Trial
    model: Dataset
    items: Dataset


T = TypeVar("T")
Group = Sequence[Trial]
RunGroup = Callable[[Group, Callable[[], list[Measured]]], list[Measured]]
"""How a group's work is carried out: called as it is, or as a flow run."""


def groups_of(lab: Lab) -> list[Group]:
    """Seed by seed, so that a lab that is broken off has whole seeds."""
    return [
        [Trial(arm, seed, rate, trial_config(lab, arm, seed, rate)) for rate in lab.config.rates]
        for seed in range(lab.config.seeds)
        for arm in lab.trained
    ]


def run_trials(
    lab: Lab,
    corpora: Mapping[str, Corpus],
    run: RunContext,
    workers: int,
    run_group: RunGroup = lambda group, work: work(),
) -> list[Measured]:
    """Train and measure whatever is not published, ``workers`` at a time."""
    stop = threading.Event()
    groups = groups_of(lab)
    trunks = [trunk_config(lab, rate) for rate in lab.config.rates] if lab.config.spend == "anneal" else []
    progress = _Progress(run.reporter, len(trunks) + sum(map(len, groups)))

    def context(name: str) -> RunContext:
        label = lab.label(name)
        launcher = _Stoppable(run.launcher, stop, run.launcher.kind)
        return replace(run, label=label, recipe=label, launcher=launcher, reporter=_TrialReporter(name, progress))

    def train(node: StageNode, name: str, datasets: Mapping[str, Dataset]) -> Dataset:
        here = context(name)
        made = run_directly(node, resolve_inputs(node, datasets), here, False).dataset
        run.store.set_ref(node.name, here.label, made.manifest.fingerprint)
        return made

    def train_trunk(config: pretrain.PretrainConfig) -> Dataset:
        name = f"trunk-r{config.optimizer.lr:g}"
        made = train(StageNode(pretrain.STAGE, config), name, corpora[trunk_arm(lab)].datasets)
        progress.ended(name)
        return made

    def measure(trial: Trial, trunk: Mapping[float, Dataset]) -> Measured:
        datasets = dict(corpora[lab.corpus_of(trial.arm)].datasets)
        if trial.config.trunk:
            datasets["pretrain"] = trunk[trial.rate]
        model = train(StageNode(pretrain.STAGE, trial.config), trial.name, datasets)
        asked = answers.AnswersConfig(evaluations=lab.config.measured)
        items = train(StageNode(answers.STAGE, asked), trial.name, {**datasets, "pretrain": model})
        progress.ended(trial.name)
        return Measured(trial, model, items)

    made = _side_by_side([partial(train_trunk, config) for config in trunks], workers, stop)
    trunk = dict(zip(lab.config.rates, made, strict=True)) if trunks else {}

    def measure_group(group: Group) -> list[Measured]:
        return run_group(group, lambda: [measure(trial, trunk) for trial in group])

    done = _side_by_side([partial(measure_group, group) for group in groups], workers, stop)
    return [measured for group in done for measured in group]


def _side_by_side(works: Sequence[Callable[[], T]], workers: int, stop: threading.Event) -> list[T]:
    """The results of all works, in their order. What one raises, or a signal, ends the others."""
    with ThreadPoolExecutor(workers, thread_name_prefix="trial") as pool:
        futures = [pool.submit(contextvars.copy_context().run, work) for work in works]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [future.result() for future in futures]


@dataclass
class _Stoppable:
    """A launcher whose waiting ends when the others are told to stop: signals reach the main thread alone."""

    inner: Launcher
    stop: threading.Event
    kind: str

    def submit(self, spec: Any, work_dir: Any) -> JobHandle:
        self._go_on()
        return self.inner.submit(spec, work_dir)

    def wait(self, handle: JobHandle, on_tick: OnTick) -> JobEnd:
        def tick(queued: str = "") -> None:
            self._go_on()
            on_tick(queued)

        return self.inner.wait(handle, tick)

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt

    def terminate(self, handle: JobHandle) -> None:
        self.inner.terminate(handle)

    def attach(self, handle: JobHandle) -> bool:
        return self.inner.attach(handle)

    def dump_stacks(self, handle: JobHandle) -> None:
        self.inner.dump_stacks(handle)


@dataclass
class _Progress:
    """How far all trainings are together, told as one stage's progress."""

    reporter: Reporter
    total: int
    _done: dict[str, float] = field(default_factory=dict)
    _pace: Pace = field(default_factory=Pace)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, name: str, share: float, figures: Mapping[str, Any]) -> None:
        with self._lock:
            self._done[name] = share
            done = sum(self._done.values())
            ended = sum(1 for share in self._done.values() if share >= 1)
            shown = {"trained": f"{ended} of {self.total}", "now": name}
            shown |= {"loss": figures["loss"]} if "loss" in figures else {}
            self.reporter.progress("trials", done, self.total, shown, self._pace.remaining(done, self.total))

    def ended(self, name: str) -> None:
        self.at(name, 1.0, {})


@dataclass
class _TrialReporter:
    """What one trial tells: its part of the progress, and warnings with its name."""

    name: str
    progress_of_all: _Progress

    def stage_started(self, stage: str, action: str) -> None:
        return

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        if stage == pretrain.STAGE.name and total:  # measuring takes a moment
            self.progress_of_all.at(self.name, min(0.95, 0.95 * done / total), figures)

    def message(self, stage: str, text: str) -> None:
        if text.startswith("warning"):
            self.progress_of_all.reporter.message(f"{stage} {self.name}", text)

    def stage_ended(self, stage: str, text: str) -> None:
        return
