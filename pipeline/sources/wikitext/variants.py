"""Script variants, ``-{zh-hans:计算机;zh-hant:電腦}-``: what a reader sees who has chosen none of them."""

import re
from collections.abc import Sequence

_RULE = re.compile(r"\s*(?:([^;:]*?)=>\s*)?([A-Za-z-]{2,12})\s*:\s*(.*)\s*\Z", re.DOTALL)


def choose_variant(parts: Sequence[str], codes: Sequence[str]) -> str:
    """The text of ``-{flags|rules}-``. Rules that name no variant are text that is not to be converted."""
    flags = [flag.strip() for flag in parts[0].split(";")] if len(parts) > 1 else []
    body = "|".join(parts[1:]) if flags else parts[0]
    if {"H", "T", "-"} & set(flags):  # sets a rule or the title, shows nothing
        return ""
    if flags and all(flag in codes for flag in flags):  # for readers of these variants only
        return body
    if flags and not all(flag in {"A", "R", "D", "N", "S", "+"} or flag in codes for flag in flags):
        body = "|".join(parts)
    if "R" in flags or "N" in flags:
        return body
    rules = dict(reversed(_rules(body, codes)))
    return next((rules[code] for code in codes if code in rules), body)


def _rules(body: str, codes: Sequence[str]) -> list[tuple[str, str]]:
    """(variant, text) of each rule; none unless all are rules. ``;`` inside a text (an entity's) divides nothing."""
    rules: list[tuple[str, str]] = []
    divider = rf";(?=\s*(?:{'|'.join(map(re.escape, codes))})\s*:|[^;:<]{{0,100}}=>|\s*\Z)"
    for piece in re.split(divider, body):
        if not piece.strip():
            continue
        found = _RULE.match(piece)
        if found is None or found[2].lower() not in codes:
            return []
        rules.append((found[2].lower(), found[3].strip()))
    return rules
