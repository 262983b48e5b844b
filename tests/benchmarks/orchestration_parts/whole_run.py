"""One run of a recipe as a Prefect flow, and how much of its time was the stages' own work.

    python -m tests.benchmarks.orchestration_parts.whole_run RECIPE WORKSPACE        against the server that answers there

*Work* is what a program without orchestration would spend as well: planning units from the input (``Step.units``), the
units themselves (from the first one handed out to the last receipt, worker processes starting included), ``finalize``, and
process groups from their start to their result. Everything else is *orchestration*: this command's start, recipe and plan,
flow runs and task runs, artifacts, logs, fingerprints, leases, journal, verification of outputs, manifests, labels. Reporting of
progress happens while units run and is counted as orchestration, not as work.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infra.stage import ShardStage


@dataclass
class Clock:
    """Seconds of work, less what was reported meanwhile; nested spans count once."""

    work: float = 0.0
    reporting: float = 0.0
    _depth: int = field(default=0)

    @contextmanager
    def span(self) -> Iterator[None]:
        self._depth += 1
        began, told = time.perf_counter(), self.reporting
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.work += time.perf_counter() - began - (self.reporting - told)

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            with self.span():
                return function(*values, **named)

        return call

    def listed(self, units: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
        """A generator's time is spent when it is read."""
        return self.timed(lambda context: list(units(context)))

    def told(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*values, **named)
            finally:
                self.reporting += time.perf_counter() - began

        return call


@dataclass(frozen=True)
class TimedExecutor:
    """An executor whose running is work; what the driver does with an outcome is not."""

    inner: Any
    clock: Clock

    def run(self, task: Any, units: Any) -> Iterator[Any]:
        outcomes = self.inner.run(task, units)
        while True:
            with self.clock.span():
                outcome = next(outcomes, None)
            if outcome is None:
                return
            yield outcome


def measured(recipe_name: str, workspace: str) -> dict[str, Any]:
    from flows import context as flow_context
    from flows import stage_flows
    from flows.context import open_store
    from flows.pipeline import run_as_flow
    from flows.recipe import load_recipe
    from infra import runner
    from infra.planning import StageSelection

    clock = Clock()
    runner.run_job = clock.timed(runner.run_job)
    for name in ("progress", "message"):
        for kind in (stage_flows.LogReporter, stage_flows.ProgressReporter):
            setattr(kind, name, clock.told(getattr(kind, name)))
    plain = flow_context.run_context

    def context(*values: Any, **named: Any) -> Any:
        made = plain(*values, **named)
        return replace(made, executor=TimedExecutor(made.executor, clock))

    flow_context.run_context = stage_flows.run_context = context
    recipe = load_recipe(recipe_name)
    for node in recipe.nodes:
        if isinstance(node.stage, ShardStage):
            steps = tuple(replace(step, units=clock.listed(step.units)) for step in node.stage.steps)
            # Stages are values that forms and flows look up by name: the timers go into the one there is.
            object.__setattr__(node.stage, "steps", steps)
            object.__setattr__(node.stage, "finalize", clock.timed(node.stage.finalize))
    store = open_store(workspace)
    result = run_as_flow(recipe, StageSelection(), store)
    return {"stages": len(result.outcomes), "work": clock.work, "reporting": clock.reporting}


def main() -> None:
    recipe, workspace = sys.argv[1:]
    from flows.context import open_store
    from flows.operate.server import configure, running_server

    store = open_store(workspace)
    address = running_server(store)
    assert address is not None, "no server answers"
    configure(store, address)
    print(json.dumps(measured(recipe, str(Path(workspace).absolute()))))


if __name__ == "__main__":
    main()
