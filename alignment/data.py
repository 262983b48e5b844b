"""Where conversations come from: a file of an input dataset, or a path."""

from pathlib import Path

from infra.errors import ConfigError
from infra.job import JobRequest

SCHEME = "dataset://"


def conversation_inputs(address: str) -> dict[str, str]:
    """The input dataset that ``dataset://name/path`` asks for, as role and stage name."""
    if not address.startswith(SCHEME):
        return {}
    name = address.removeprefix(SCHEME).split("/", 1)[0]
    return {name: name}


def conversations_file(request: JobRequest, address: str) -> Path:
    """``dataset://name/path`` is the file ``data/path`` of that input; anything else is a path."""
    if not address.startswith(SCHEME):
        return Path(address)
    name, _, path = address.removeprefix(SCHEME).partition("/")
    if not path or ".." in Path(path).parts:
        raise ConfigError(
            f"{address} names no file of a dataset", where="conversations", remedy="Write dataset://sample/FILE."
        )
    return request.inputs[name].local(f"data/{path}")
