"""The report stage: asks the models a few questions and writes ``data/report.html``.

The page shows times and hosts, so it is listed in the manifest and left out of the output digest.
"""

from collections.abc import Iterator, Mapping

from pydantic import Field

from flows.report import PAGE
from flows.report.page import Reply, write_page
from infra.config import Config
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id
from infra.store.dataset import Dataset

CHAT_MODELS = ("sft", "ppo", "dpo", "grpo")


class ReportConfig(Config):
    """What the page shows."""

    stages: tuple[str, ...] = (
        "sample", "ingest", "classifier", "attributes", "quality", "dedup", "decontaminate", "redact", "tokenizer",
        "shards", "pretrain", "sft", "preferences", "reward", "ppo", "dpo", "grpo", "evaluate", "export",
    )  # fmt: skip
    """Stages to report on, by their sections: those the recipe runs."""
    questions: tuple[str, ...] = ("Hi, how are you?", "What do you like to do on weekends?", "Do you have any pets?")
    """What each chat model is asked."""
    reply_tokens: int = Field(48, ge=1, le=2048)
    """Longest reply."""
    samples: int = Field(3, ge=0, le=50)
    """Documents shown for each rule, and of those kept for each source."""


def _units(context: StageContext) -> Iterator[Unit]:
    yield Unit(unit_id("report", *sorted(dataset.digest for dataset in context.inputs.values())))


def _process(unit: Unit, context: UnitContext) -> Counts:
    config: ReportConfig = context.config
    replies = ask(context.inputs, config)
    with context.output(PAGE, digested=False) as path:
        write_page(context.inputs, path, replies=replies, samples=config.samples)
    return Counts()


def ask(datasets: Mapping[str, Dataset], config: ReportConfig) -> list[Reply]:
    """Every chat model's answer to every question; the same each time."""
    models = [name for name in CHAT_MODELS if name in datasets]
    if not models or not config.questions:
        return []
    # Imports torch: a report without models does not pay for it.
    from training.chat import ChatSession
    from training.generate import Sampling

    # Cooler than a chat's default: one reply has to speak for a model.
    sampling = Sampling(max_new_tokens=config.reply_tokens, temperature=0.5, top_p=0.9, repetition_penalty=1.1)
    replies = []
    for name in models:
        session = ChatSession.open(datasets[name].local("data/model"), sampling=sampling)
        for question in config.questions:
            session.messages.clear()
            replies.append(Reply(name, question, session.reply(question)))
    return replies


STAGE = ShardStage(
    name="report",
    code_version=3,  # 3: what goes on through a stage is drawn straight
    config=ReportConfig,
    reference="flows.report.stage:STAGE",
    inputs=lambda config: {name: name for name in config.stages},
    steps=(Step("page", _units, _process),),
    description="One self-contained HTML page about everything the recipe made.",
)
