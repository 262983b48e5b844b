"""What a dataset is computed from, as one digest.

    payload     = {stage, code_version, config without execution-only fields, {role: output digest of the input},
                   identity of what is read from outside the store, digest of other packages' code}
    fingerprint = first 12 hex digits of SHA-256(canonical JSON of the payload)

Inputs enter by *output digest*: if an upstream stage runs again and yields the same bytes, nothing downstream changes
(early cut-off). The source of a stage does not enter (``infra.stage_source``): it is recorded beside the fingerprint, so that
an edited comment costs nothing and an edited rule without a new ``code_version`` is still noticed (drift). Code of other packages
has no such version, so the digest of its syntax does enter (``infra.extensions``).
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from infra.config import Config, Json, canonical_json, differences, identity
from infra.extensions import code_of
from infra.python_gc import python_gc_paused
from infra.stage import Stage


def fingerprint_payload(stage: Stage, config: Config, input_digests: Mapping[str, str]) -> dict[str, Json]:
    """All that decides the dataset, as plain JSON values. Raises ConfigError or InputError where outside files are missing."""
    payload: dict[str, Json] = {
        "stage": stage.kind,
        "code_version": stage.code_version,
        "config": identity(config),
        "inputs": dict(input_digests),
    }
    with python_gc_paused():  # it may list ninety thousand archives
        external = stage.external(config)
    if external is not None:
        payload["external"] = identity(external)
    if code := code_of(stage, config):
        payload["code"] = identity(code)
    return payload


def short_fingerprint(payload: Mapping[str, Json]) -> str:
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()[:12]


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why two payloads differ, most telling cause first: code, configuration, then inputs."""
    causes: list[str] = []
    if old.get("code_version") != new.get("code_version"):
        causes.append(f"code version {old.get('code_version')} -> {new.get('code_version')}")
    before, after = old.get("code") or {}, new.get("code") or {}
    edited = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    if edited:
        causes.append(f"code changed: {', '.join(edited)}")
    changed = differences(old.get("config"), new.get("config"))
    if changed:
        shown = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
        causes.append(f"config changed: {shown}")
    if old.get("external") != new.get("external"):
        causes.append("files outside the store changed")
    before, after = old.get("inputs") or {}, new.get("inputs") or {}
    roles = sorted(role for role in before.keys() | after.keys() if before.get(role) != after.get(role))
    if roles:
        causes.append(f"input changed: {', '.join(roles)}")
    return "; ".join(causes) or "nothing changed"
