"""What is asked of the annotators of a workspace: prompts, how many judge each pair, how answers are sampled, guidelines.

It lies beside the log (``study.json``, ``guidelines.md``), so that a server that starts again goes on with the same.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from alignment.forms import conversation_of, messages_to_json
from alignment.pair_files import prompt_of
from alignment.records import Reading, Unusable, find, is_hub, parsed
from alignment.turns import Message
from infra.config import Config, canonical_json
from infra.errors import ConfigError, InputError
from infra.store.address import dataset_inputs
from infra.store.dataset import Dataset
from infra.store.files import exists, read_json, write_bytes, write_json

STUDY, GUIDELINES = "study.json", "guidelines.md"
Prompt = tuple[Message, ...]

DEFAULT_GUIDELINES = """\
# Which answer is better?

You see a question and two answers. You do not see who wrote them, and the sides are shuffled.

1. Read the question first. What does the person want?
2. Read both answers to the end. Longer is not better.
3. Choose the answer that helps this person more: it is correct, says what was asked, and nothing harmful.
   - One is wrong, the other is not: the right one wins, however it is written.
   - Both are right: the clearer one wins.
   - You cannot choose, and both would do: **tie**.
   - You cannot choose, and neither would do: **both bad**.
4. Go by what is there, not by what you guess the writer could have said. Look up what you do not know.
5. Unsure after a minute? Tie. A slip? Undo.

Some pairs come back later with the sides swapped. That is on purpose: it shows how steady judgements are.
"""


class Study(Config):
    """What is asked of the annotators."""

    prompts: tuple[str, ...] = ()
    """Files of prompts: conversations or comparisons in any form that fine-tuning reads (the opening question is asked),
    {"prompt": …}, or text with a prompt a line. Paths, files of datasets (dataset://sample/conversations.jsonl), or
    datasets of the hub. None: what annotators type."""
    most_prompts: int = Field(default=1000, ge=1)
    """So many different prompts are taken, the first ones."""
    per_prompt: int = Field(default=1, ge=1)
    """Pairs of answers to a prompt, each of another two models in turn."""
    overlap: int = Field(default=1, ge=1)
    """Annotators that judge each pair. Agreement is measured where it is 2 or more."""
    repeats: float = Field(default=0.1, ge=0, le=0.5)
    """Share of an annotator's pairs that come again with the sides swapped."""
    hold_minutes: float = Field(default=15, gt=0)
    """A pair that somebody was shown and did not judge for so long is given to another."""
    ahead: int = Field(default=8, ge=1)
    """Pairs that are answered before anybody asks."""
    temperature: float = Field(default=0.8, ge=0)
    """Of the answers. 0: each model's likeliest words, for comparing two models."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """The answers' words are drawn from the likeliest with this probability together."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer."""
    seed: int = 0
    """Of the order of prompts, the sides, the repeats and the answers."""


def load_study(folder: Path) -> Study:
    """The study of a folder of votes; the default one where nobody set another."""
    path = folder / STUDY
    return study_of(read_json(path), str(path)) if exists(path) else Study()


def study_of(values: Mapping[str, Any], where: str) -> Study:
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}: {first['msg'].lower()}", where=where, remedy="See docs/votes.md.") from None


def save_study(folder: Path, study: Study) -> None:
    """Keep the study, and beside it guidelines to be edited if there are none."""
    write_json(folder / STUDY, study.model_dump(mode="json", exclude_defaults=True))
    if not exists(folder / GUIDELINES):
        write_bytes(folder / GUIDELINES, DEFAULT_GUIDELINES.encode())


def guidelines(folder: Path) -> str:
    try:
        return (folder / GUIDELINES).read_text()
    except FileNotFoundError:
        return DEFAULT_GUIDELINES


def roles(study: Study) -> dict[str, str]:
    """The datasets that the prompts come from, by role."""
    return dataset_inputs(study.prompts)


def read_prompts(study: Study, inputs: Mapping[str, Dataset]) -> list[Prompt]:
    """The prompts of the study, each once, in an order that the seed decides. Raises InputError where there is none."""
    found: dict[str, Prompt] = {}
    reading = Reading()
    for prompt in _prompts(study, inputs, reading):
        found.setdefault(prompt_id(prompt), prompt)
        if len(found) == study.most_prompts:
            break
    if study.prompts and not found:
        raise InputError(
            f"there is no prompt to answer{reading.example}",
            where=", ".join(study.prompts),
            remedy="See docs/votes.md.",
        )
    return [found[name] for name in sorted(found, key=lambda name: digest(study.seed, "prompt", name))]


def _prompts(study: Study, inputs: Mapping[str, Dataset], reading: Reading) -> Iterable[Prompt]:
    for address in study.prompts:
        for path in find(address, inputs):
            if not is_hub(path) and Path(path).suffix == ".txt":
                yield from _lines(Path(path))
                continue
            yield from (prompt for _, prompt in parsed(path, reading, prompt_in))


def _lines(path: Path) -> Iterable[Prompt]:
    """A prompt a line."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from ((Message("user", text),) for line in stream if (text := line.strip()))
    except UnicodeDecodeError as error:  # people would be asked what nobody wrote
        raise InputError(
            f"the file is not UTF-8: {error.reason}", where=str(path), remedy="Save it as UTF-8."
        ) from None


def prompt_in(raw: Mapping[str, Any]) -> Prompt:
    """What a record asks: a prompt by itself, or all before the first reply. Raises ``Unusable``."""
    if raw.get("prompt") is not None:
        return opening(prompt_of(raw))
    return opening(conversation_of(raw).messages)


def opening(messages: Prompt) -> Prompt:
    """A conversation up to its first reply."""
    until = next(
        (at for at, message in enumerate(messages) if message.role != "system" and message.role != "user"), None
    )
    asked = messages[:until]
    if not any(message.role == "user" and message.content.strip() for message in asked):
        raise Unusable("no_prompt", "no user says anything before the first reply")
    return asked


def prompt_id(prompt: Prompt) -> str:
    return digest(canonical_json(messages_to_json(prompt)))


def digest(*parts: Any) -> str:
    """16 hex digits, the same for the same parts."""
    return hashlib.blake2b(canonical_json(list(parts)).encode(), digest_size=8).hexdigest()
