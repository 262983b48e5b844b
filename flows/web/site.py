"""What one ``headwater serve`` serves: a workspace, models, and how it may be reached."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from alignment.votes.annotators import Annotators
from alignment.votes.log import votes_folder
from flows.models import model_dataset, model_folder
from infra.config import Config
from infra.errors import InputError, NotFound
from infra.store.store import Store

if TYPE_CHECKING:  # torch comes with a model, and a workspace can be served without one
    from training.serving import Engine
    from training.text_model import TextModel

DEFAULT_MODEL = "export"


class ServeSettings(Config):
    """How the server listens, and what it lets through."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs keys."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    names: str = ""
    """Further names that the server is called by, with commas between: those of a proxy in front of it."""
    keys: frozenset[str] = frozenset()
    """SHA-256 digests of the keys that open everything; none: whoever reaches the server may use it."""
    slots: int = Field(default=16, ge=1, le=1024)
    """Replies that one model writes at a time."""
    queue: int = Field(default=64, ge=0)
    """Replies that may wait for a slot of a model; more are refused with 429."""
    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    """Longest request body."""
    requests_per_second: float = Field(default=100, gt=0)
    """Requests to the APIs that one client may make for long; twice as many at once."""
    stall_seconds: float = Field(default=60, gt=0)
    """A client that takes nothing of its answer for so long has gone."""


@dataclass(frozen=True)
class ServedModel:
    """A model, under the name that requests call it by."""

    id: str
    stage: str
    dataset: str
    """``name/fingerprint``, or the folder."""
    engine: "Engine"
    template: str | None
    """Its chat template; None for a model that was never taught to chat."""

    @property
    def model(self) -> "TextModel":
        return self.engine.model

    @property
    def context(self) -> int:
        return self.model.decoder.config.max_position


@dataclass(frozen=True)
class Site:
    store: Store
    models: Mapping[str, ServedModel]
    settings: ServeSettings = field(default_factory=ServeSettings)
    annotator: Callable[[str], str | None] = lambda token: None
    """The name of the annotator whose token this is; such a token opens the comparisons and nothing else."""

    @property
    def votes_folder(self) -> Path:
        """Log, study and annotators of the comparisons."""
        return votes_folder(self.store)

    def model(self, name: str | None) -> ServedModel:
        """The model that a request names; the only one need not be named. Raises NotFound."""
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        if not name or name not in self.models:
            known = ", ".join(self.models) or "none; name some after `headwater serve`"
            raise NotFound(f"the model {name or ''!r} is not served here", remedy=f"Models served here: {known}.")
        return self.models[name]


@contextmanager
def open_site(store: Store, names: list[str], label: str, settings: ServeSettings) -> Iterator[Site]:
    """A site with its models loaded. With none named: the exported one if there is any, else the workspace alone."""
    asked = names or ([DEFAULT_MODEL] if store.labels(DEFAULT_MODEL) else [])
    with ExitStack() as stack:
        models: dict[str, ServedModel] = {}
        for name in dict.fromkeys(asked):
            model = _load(store, name, label, settings, stack)
            if model.id in models:
                raise InputError(f"two models would be called {model.id!r}", where=name, remedy="Rename a folder.")
            models[model.id] = model
        yield Site(store, models, settings, annotator=Annotators(votes_folder(store)).name_of)


def _load(store: Store, name: str, label: str, settings: ServeSettings, stack: ExitStack) -> ServedModel:
    from training.chat_template import chat_template
    from training.serving import Engine
    from training.text_model import load_text_model

    folder = stack.enter_context(model_folder(store, name, label))
    engine = Engine(load_text_model(folder), slots=settings.slots, queue=settings.queue, name=name)
    stack.callback(engine.close)
    try:
        dataset = model_dataset(store, name, label)
        stage, address = dataset.name, f"{dataset.name}/{dataset.manifest.fingerprint}"
    except InputError:  # a folder, or a checkpoint
        stage, address = "", name
    called = Path(name).resolve().name if Path(name).is_dir() else name
    return ServedModel(called, stage, address, engine, chat_template(folder))
