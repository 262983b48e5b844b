"""The tokenizer of a model folder, made here or elsewhere: text to ids and back, and the special ids.

    tokenizer.json            the vocabulary; needed
    tokenizer_config.json     names of the special tokens, tokens added later, whether a text begins with BOS
    special_tokens_map.json   the names again, in older folders
    generation_config.json    the tokens that end a reply; config.json where it is missing

All but the first are optional. Text is never read as a control token, whatever it spells: ``<|end|>`` on a page is seven
characters. Control tokens are put in by id, or by the model's chat template (``training.chat_template``).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from infra.errors import InputError
from pipeline.tokenizer.model import SPACE, encodable

TURN_END = "<|end|>"
NAMED_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
UNREADABLE = "\ufffd"
"""What bytes are shown as that make no character."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids a generating program needs to know; None where a tokenizer has no such token."""

    bos: int | None
    eos: int | None
    pad: int | None
    stops: tuple[int, ...]
    """Any of these ends a reply: end of text and, for chat models, end of turn."""
    prefix: tuple[int, ...] = ()
    """What the tokenizer puts before a text: BOS, or nothing."""
    names: Mapping[str, str | list[str]] = field(default_factory=dict)
    """The special tokens as settings name them, by role: what a chat template may write."""

    @property
    def beginning(self) -> list[int]:
        """What stands before a text. One without any token before it has a first token that nothing predicts: end of text
        then stands for its beginning."""
        return [*self.prefix] or [token for token in (self.bos, self.eos) if token is not None][:1]

    @property
    def filler(self) -> int:
        """An id to fill rows with where nothing is read: any will do."""
        return next((token for token in (self.pad, self.eos) if token is not None), 0)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with the tokens that only its settings name. It reads all text as text."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise InputError(
            "there is no tokenizer.json",
            where=str(folder),
            remedy="Give a complete model folder; transformers writes the file: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"tokenizer.json cannot be read: {error}", where=str(folder)) from error
    # Settings of somebody's training run that would cut and pad every prompt.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_special_tokens(_control_tokens(tokenizer, _settings(folder)))
    tokenizer.add_tokens(_later_tokens(tokenizer, _settings(folder)))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` over the older ``special_tokens_map.json``."""
    return _optional_json(folder / "special_tokens_map.json") | _optional_json(folder / "tokenizer_config.json")


def _added(raw: Any) -> AddedToken | None:
    """A token as settings write it: its text, or a record."""
    if isinstance(raw, str):
        return AddedToken(raw, special=True, normalized=False)
    if not isinstance(raw, dict) or not isinstance(raw.get("content"), str):
        return None
    flags = {
        name: bool(raw[name]) for name in ("single_word", "lstrip", "rstrip", "normalized", "special") if name in raw
    }
    return AddedToken(raw["content"], **flags)


def _decoder_entries(settings: dict[str, Any]) -> list[tuple[int, AddedToken]]:
    """``added_tokens_decoder``: id -> token, in the order of the ids."""
    raw = settings.get("added_tokens_decoder")
    entries = [(int(index), _added(token)) for index, token in raw.items()] if isinstance(raw, dict) else []
    return sorted(((index, token) for index, token in entries if token is not None), key=lambda entry: entry[0])


def _control_tokens(tokenizer: Tokenizer, settings: dict[str, Any]) -> list[AddedToken]:
    """Tokens that are control tokens by the settings alone: those with a role, and those declared special.

    A name that is not in the vocabulary stays out: it would get an id that the model has no row for.
    """
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    named = [_added(settings.get(role)) for role in NAMED_ROLES]
    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    named += [_added(token) for token in (more.values() if isinstance(more, dict) else more)]
    named += [token for _, token in _decoder_entries(settings) if token.special]
    controls = []
    for token in named:
        if token is None or tokenizer.token_to_id(token.content) is None:
            continue
        there = known.get(token.content)
        if there is None or not there.special:
            controls.append(token)
    return controls


def _later_tokens(tokenizer: Tokenizer, settings: dict[str, Any]) -> list[AddedToken]:
    """Tokens of ``added_tokens_decoder`` that ``tokenizer.json`` lacks, as far as they get the ids they claim."""
    later = []
    following = tokenizer.get_vocab_size(with_added_tokens=True)
    for index, token in _decoder_entries(settings):
        if tokenizer.token_to_id(token.content) is None and index == following:
            later.append(token)
            following += 1
    return later


def special_tokens(folder: Path, tokenizer: Tokenizer | None = None) -> SpecialTokens:
    """The special ids of a model or tokenizer folder.

    A reply ends where ``transformers`` ends it: at any of the tokens that ``generation_config.json`` names (one or a
    list; ``config.json`` where that file is missing), or at the tokenizer's own end of text.
    """
    tokenizer = tokenizer or load_tokenizer(folder)
    settings = _settings(folder)
    model, generation = (_optional_json(folder / name) for name in ("config.json", "generation_config.json"))

    def named(role: str) -> int | None:
        token = _added(settings.get(role))
        if token is not None:
            return _id(tokenizer, token.content)
        ids = [] if settings else _ids(generation.get(f"{role}_id")) or _ids(model.get(f"{role}_id"))
        return ids[0] if ids else None

    ends = _ids(generation.get("eos_token_id")) or _ids(model.get("eos_token_id"))
    if not ends and (turn := _id(tokenizer, TURN_END)) is not None:
        # A tokenizer of our own, before any model: no file says yet where a turn ends.
        ends = [turn]
    eos = named("eos_token")
    stops = dict.fromkeys([*([] if eos is None else [eos]), *ends])
    bos = named("bos_token")
    eos = eos if eos is not None or not ends else ends[0]
    pad = named("pad_token")
    roles = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    names = _names(settings) or {
        role: name for role, token in roles.items() if token is not None and (name := tokenizer.id_to_token(token))
    }
    return SpecialTokens(bos, eos, pad, tuple(stops), _prefix(tokenizer, settings, bos), names)


def _names(settings: dict[str, Any]) -> dict[str, str | list[str]]:
    found = {role: _added(settings.get(role)) for role in NAMED_ROLES}
    names: dict[str, str | list[str]] = {role: token.content for role, token in found.items() if token is not None}
    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens")
    if isinstance(more, list):
        names["additional_special_tokens"] = [token.content for each in more if (token := _added(each)) is not None]
    return names


def _prefix(tokenizer: Tokenizer, settings: dict[str, Any], bos: int | None) -> tuple[int, ...]:
    """What is put before a text. ``add_bos_token`` in the settings overrules what ``tokenizer.json`` does by itself."""
    asked = settings.get("add_bos_token")
    if isinstance(asked, bool):
        return (bos,) if asked and bos is not None else ()
    plain, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    before = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return tuple(whole[:before])


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, nothing added; every text has some (lone surrogates, from a terminal or JSON, become ``?``).

    SentencePiece vocabularies write a space as U+2581. The library reads a literal U+2581 as a space; as in training
    here, it is spelt by its bytes where the vocabulary has them and nothing depends on what comes before.
    """
    # Nor are their places asked for: a million pairs of a long text take longer than its ids.
    return [token for ids, _, _ in _encoded(tokenizer, text, tokenizer.encode_batch_fast) for token in ids]


def encode_places(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of a text, and for each which characters it stands for."""
    ids: list[int] = []
    places: list[tuple[int, int]] = []
    for some, start, encoding in _encoded(tokenizer, text, tokenizer.encode_batch):
        ids += some
        offsets = encoding.offsets if encoding is not None else [(0, 1)] * len(some)
        places += [(start + first, start + last) for first, last in offsets]
    return ids, places


def _encoded(
    tokenizer: Tokenizer, text: str, encode_batch: Callable[..., list[Encoding]]
) -> Iterator[tuple[list[int], int, Encoding | None]]:
    """The ids of each part of a text, where it begins, and its encoding; none of a mark that is spelt.

    As a batch of one: the library's ``encode`` holds the interpreter all the while, and a server's other threads with it.
    """
    text = encodable(text)
    spelt = _space_mark(tokenizer) if SPACE in text else []
    start = 0
    for number, part in enumerate(text.split(SPACE) if spelt else [text]):
        if number:
            yield spelt, start, None
            start += 1
        (encoding,) = encode_batch([part], add_special_tokens=False)
        yield encoding.ids, start, encoding
        start += len(part)


def _space_mark(tokenizer: Tokenizer) -> list[int]:
    """U+2581 in byte tokens, for a vocabulary that reads the character as a space and puts none before a text."""
    mark, space = (tokenizer.encode(text, add_special_tokens=False).ids for text in (SPACE, " "))
    spelt = [_id(tokenizer, f"<0x{byte:02X}>") for byte in SPACE.encode()]
    known = [token for token in spelt if token is not None]
    return known if mark == space and len(mark) == 1 and len(known) == len(spelt) else []


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of some ids, control tokens left out. Bytes that make no character are shown as U+FFFD.

    The library decodes a run of byte tokens all or nothing: one missing byte at its end would cost every character
    of the run. So what is unreadable is taken out of the run before.
    """
    tokens = [token for token in map(tokenizer.id_to_token, ids) if token is not None]
    if tokenizer.decoder is None or not any(map(_BYTE.fullmatch, tokens)) or not _falls_back_to_bytes(tokenizer):
        text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    readable: list[str] = []
    run = bytearray()
    for token in tokens:
        if byte := _BYTE.fullmatch(token):
            run.append(int(byte[1], 16))
        elif token not in special:
            readable += _readable(run)
            run.clear()
            readable.append(token)
    decoded: str = tokenizer.decoder.decode([*readable, *_readable(run)])
    return decoded


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token stands for inside a text; a control token's name; nothing where the vocabulary has no such id."""
    name = tokenizer.id_to_token(token)
    if name is None:
        return b""
    if (byte := _BYTE.fullmatch(name)) and tokenizer.decoder is not None and _falls_back_to_bytes(tokenizer):
        return bytes([int(byte[1], 16)])
    added = tokenizer.get_added_tokens_decoder().get(token)
    if added is not None and added.special:
        return bytes(name.encode())
    if tokenizer.decoder is not None and b"ByteLevel" in tokenizer.decoder.__getstate__() and added is None:
        table = _byte_characters()
        return bytes(table[character] for character in name if character in table)
    before = encode(tokenizer, "a")[-1:]  # the beginning of a text may lose a space
    return decode(tokenizer, [*before, token])[len(decode(tokenizer, before)) :].encode()


@cache
def _byte_characters() -> dict[str, int]:
    """The characters that byte-level vocabularies, since GPT-2, write bytes as: themselves where they can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _readable(run: bytes | bytearray) -> list[str]:
    """A run of bytes as byte tokens, each stretch that makes no character replaced by one U+FFFD."""
    tokens: list[str] = []
    rest = bytes(run)
    while rest:
        try:
            rest.decode()
            good, bad = len(rest), len(rest)
        except UnicodeDecodeError as error:
            good, bad = error.start, error.end
        tokens += [f"<0x{byte:02X}>" for byte in rest[:good]]
        tokens += [UNREADABLE] if bad > good else []
        rest = rest[bad:]
    return tokens


def _falls_back_to_bytes(tokenizer: Tokenizer) -> bool:
    return b"ByteFallback" in tokenizer.decoder.__getstate__()


def _id(tokenizer: Tokenizer, name: str) -> int | None:
    found: int | None = tokenizer.token_to_id(name)
    return found


def _ids(raw: Any) -> list[int]:
    """An id or a list of ids, as the configuration files write them."""
    entries = raw if isinstance(raw, list) else [raw]
    return [entry for entry in entries if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0]


def _optional_json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no {path.name}", where=str(path.parent)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not valid JSON: {error}", where=str(path.parent)) from error
    if not isinstance(value, dict):
        raise InputError(f"{path.name} does not hold an object", where=str(path.parent))
    return value
