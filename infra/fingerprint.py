"""What a dataset is computed from, as one digest.

    payload     = {stage, code_version, config without execution-only fields, {role: output digest of the input},
                   identity of what is read from outside the store}
    fingerprint = first 12 hex digits of SHA-256(canonical JSON of the payload)

Inputs enter by *output digest*: if an upstream stage runs again and yields the same bytes, nothing downstream changes
(early cut-off). The source of a stage does not enter; its digest is recorded beside the fingerprint, so that an edited
comment costs nothing and an edited rule without a new ``code_version`` is still noticed (drift).
"""

import ast
import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from infra.config import Config, Json, canonical_json, differences, identity
from infra.errors import HeadwaterError
from infra.garbage import collector_paused
from infra.stage import Stage
from infra.store.cache import cache_root
from infra.store.files import write_bytes


def fingerprint_payload(stage: Stage, config: Config, input_digests: Mapping[str, str]) -> dict[str, Json]:
    payload: dict[str, Json] = {
        "stage": stage.name,
        "code_version": stage.code_version,
        "config": identity(config),
        "inputs": dict(input_digests),
    }
    with collector_paused():  # it may list ninety thousand archives
        external = stage.external(config)
    if external is not None:
        payload["external"] = identity(external)
    return payload


def short_fingerprint(payload: Mapping[str, Json]) -> str:
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()[:12]


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why two payloads differ, most telling cause first: code, configuration, then inputs."""
    causes: list[str] = []
    if old.get("code_version") != new.get("code_version"):
        causes.append(f"code version {old.get('code_version')} -> {new.get('code_version')}")
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


def source_digest(modules: Sequence[str]) -> str:
    """SHA-256 over the syntax trees of the named modules (a package counts with all its files).

    Comments, layout and docstrings do not count. To parse a hundred files takes a second, so the result is remembered on
    this machine by the files' contents.
    """
    files = [(name, path) for name in sorted(set(modules)) for path in _files(name)]
    key = hashlib.sha256(f"{sys.version_info[:2]}\n".encode())
    for name, path in files:
        seen = path.stat()
        key.update(f"{name}:{path.name}:{_content(path, seen.st_mtime_ns, seen.st_size)}\n".encode())
    remembered = cache_root() / "sources" / key.hexdigest()
    try:
        return remembered.read_text(encoding="ascii")
    except OSError:
        digest = _syntax_digest(files)
    # A machine without a place for it parses again next time.
    with contextlib.suppress(OSError, HeadwaterError):
        write_bytes(remembered, digest.encode())
    return digest


def _syntax_digest(files: Sequence[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        seen = path.stat()
        digest.update(f"{name}:{path.name}\n".encode())
        digest.update(_syntax(path, seen.st_mtime_ns, seen.st_size))
    return digest.hexdigest()[:16]


@cache
def _content(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _syntax(path: Path, modified: int, size: int) -> bytes:
    """A file's syntax tree as text. Stages share modules, and a run asks for each stage's digest several times."""
    return ast.dump(_without_docstrings(ast.parse(path.read_text(encoding="utf-8")))).encode()


def _files(module: str) -> list[Path]:
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"no module {module}")
    if spec.submodule_search_locations:
        return sorted(path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin else []


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [
                item
                for item in node.body
                if not (
                    isinstance(item, ast.Expr)
                    and isinstance(item.value, ast.Constant)
                    and isinstance(item.value.value, str)
                )
            ] or [ast.Pass()]
    return tree
