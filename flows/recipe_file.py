"""A recipe's file as plain data: YAML, read strictly, and every mistake told with its line.

YAML itself lets a key stand twice and takes the last one; half of what was written would then hold without a word.
"""

from pathlib import Path
from typing import Any

import yaml

from infra.errors import ConfigError, describe_os_error

DEPLOYED = ("demo", "smoke")
"""The bundled recipes that are deployed where none is named."""
SCALE = "scale="
"""How an override begins that sets the recipe's scale."""


class _Loader(yaml.SafeLoader):
    """As SafeLoader, but a key that stands twice in one mapping is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Node] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice, first in line {seen[key].start_mark.line + 1}",
                    key_node.start_mark,
                )  # fmt: skip
            if isinstance(key, (str, int, float, bool)):
                seen[key] = key_node
        return super().construct_mapping(node, deep)


def read_recipe_file(path: Path, what: str = "recipe") -> dict[str, Any]:
    """The mapping that a file of this kind holds. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the {what} is not UTF-8 (byte {error.start})", where=str(path), remedy="Save it as UTF-8."
        ) from None
    except OSError as error:
        found = describe_os_error(error, str(path))
        raise ConfigError(f"the {what} cannot be read: {found.error}", where=found.where, remedy=found.remedy) from None
    try:
        raw = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = " ".join((error.problem or str(error)).split())
        if "'\\t'" in problem:
            problem += "; YAML indents with spaces, never with tabs"
        raise ConfigError(f"the {what} is not valid YAML: {problem}", where=line, remedy="Mend that line.") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"the {what} is not valid YAML: {problem}", where=str(path), remedy="Mend it.") from None
    remedy = f"See docs/{'ablate' if what == 'lab' else what}.md."
    if raw is None:
        raise ConfigError(f"the {what} is empty", where=str(path), remedy=remedy)
    if not isinstance(raw, dict):
        raise ConfigError(f"a {what} is a mapping of keys", where=str(path), remedy=remedy)
    return raw
