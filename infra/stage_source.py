"""The source a stage is made of, found from its imports: what drift compares.

It begins with the module that declares the stage (of a job: the module that is launched) and goes on with what that
imports, within our packages and the package that the stage comes from. The rules:

* ``infra`` is left out. It decides where and when a stage works and how its files get into place, never what is in them;
  else another line of progress would be drift in every dataset.
* An import counts wherever it stands, also in a function; one for type checkers alone does not.
* What a package only hands on counts where it is defined: ``from pipeline.tokenizer import Tokenizer`` leads to
  ``pipeline/tokenizer/model.py``, and not to how a tokenizer is trained.
* Comments, layout and docstrings do not count.

Nothing is imported to find out. To parse a hundred files takes a second, so what a file contains is remembered on this
machine by its contents.
"""

import ast
import contextlib
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from infra.config import Config
from infra.errors import HeadwaterError
from infra.stage import ShardStage, Stage
from infra.store.cache import cache_root
from infra.store.files import create_exclusive

FOLLOWED = frozenset({"alignment", "flows", "pipeline", "training"})
SHOWN = 3


@dataclass(frozen=True)
class Import:
    """``from module import name as bound``, relative by ``level`` packages; without ``name``: ``import module``."""

    module: str
    name: str = ""
    bound: str = ""
    level: int = 0


@dataclass(frozen=True)
class SourceFile:
    """What one file says."""

    digest: str
    imports: tuple[Import, ...]


def stage_source(stage: Stage, config: Config) -> dict[str, str]:
    """File (``pipeline/words.py``) -> digest of its syntax, for every file the stage is made of."""
    if isinstance(stage, ShardStage):
        module, _, name = stage.reference.partition(":")
        return source_of(Import(module, name))
    return source_of(Import(stage.job(config).module))


def changed_files(before: dict[str, str], now: dict[str, str]) -> str:
    """The files that differ, for a sentence: ``pipeline/words.py, pipeline/ngrams.py and 4 more``."""
    if not before:
        return "files not on record"
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(changed[:SHOWN]) + (f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")


def source_of(root: Import) -> dict[str, str]:
    """The same for whatever an import leads to. Raises ModuleNotFoundError."""
    followed = FOLLOWED | {root.module.partition(".")[0]}
    waiting = list(_targets(root, followed))
    if not waiting:
        raise ModuleNotFoundError(f"no module {root.module}")
    found: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            path = _file_of(module)
            assert path is not None
            source = _read(path)
            depth = module.count(".") + (path.name == "__init__.py")
            found["/".join(path.parts[-1 - depth :])] = source.digest
            waiting += [target for each in _absolute(source, module, path) for target in _targets(each, followed)]
    return dict(sorted(found.items()))


def _targets(wanted: Import, followed: frozenset[str]) -> Iterator[str]:
    """The modules that an import needs, as far as they are followed."""
    if wanted.module.partition(".")[0] not in followed:
        return
    submodule = f"{wanted.module}.{wanted.name}"
    if wanted.name and _file_of(submodule) is not None:
        yield submodule
        return
    path = _file_of(wanted.module)
    if path is None:  # a folder without a file, or something built
        return
    if wanted.name not in ("", "*") and path.name == "__init__.py":
        for handed_on in _absolute(_read(path), wanted.module, path):
            if handed_on.bound == wanted.name:
                yield from _targets(handed_on, followed)
                return
    yield wanted.module


def _absolute(source: SourceFile, module: str, path: Path) -> Iterator[Import]:
    """A module's imports, those relative to it too."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for each in source.imports:
        if each.level:
            above = package[: len(package) - each.level + 1]
            yield Import(".".join([*above, *filter(None, [each.module])]), each.name, each.bound)
        else:
            yield each


def _file_of(module: str) -> Path | None:
    """The file of a module; None where there is none. Nothing is imported, as ``find_spec`` would do with packages."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or (spec.origin and not spec.submodule_search_locations and rest):
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations:
        base = Path(folder, *rest)
        for path in (*([base.with_suffix(".py")] if rest else []), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _read(path: Path) -> SourceFile:
    seen = path.stat()
    return _remembered(path, seen.st_mtime_ns, seen.st_size)


@cache
def _remembered(path: Path, modified: int, size: int) -> SourceFile:
    """A file's content, parsed once on this machine."""
    content = path.read_bytes()
    key = hashlib.sha256(f"{sys.version_info[:2]}\n".encode() + content).hexdigest()
    remembered = cache_root() / "sources" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        digest, imports = json.loads(remembered.read_bytes())
        return SourceFile(digest, tuple(Import(*fields) for fields in imports))
    source = _parsed(content)
    # A machine without a place for it parses again next time.
    with contextlib.suppress(OSError, HeadwaterError):
        create_exclusive(str(remembered), json.dumps(astuple(source)).encode())
    return source


def _parsed(content: bytes) -> SourceFile:
    tree = ast.parse(content)
    imports = tuple(dict.fromkeys(_imports(tree.body)))
    digest = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()[:12]
    return SourceFile(digest, imports)


def _imports(body: Sequence[ast.AST]) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(node.module or "", alias.name, alias.asname or alias.name, node.level)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _imports(node.orelse)
        else:
            yield from _imports(list(ast.iter_child_nodes(node)))


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
