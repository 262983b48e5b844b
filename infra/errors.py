"""The one exception a user ever reads: what is wrong, where, and how to mend it."""

import difflib
import errno
import re
import sqlite3
from collections.abc import Iterable
from functools import partial

DISK_FULL = re.compile(
    r"No space left on device|database or disk is full|disk quota exceeded|not enough free space to write|"
    r"\d+ requested and \d+ written",
    re.IGNORECASE,
)
"""How the operating system, sqlite and numpy say it."""


class HeadwaterError(Exception):
    """A failure with a cause a person can act on.

    Commands print it as one sentence (``--json``: ``{error, where, remedy}`` on stderr) and exit non-zero.
    """

    stage: str = ""
    """The stage that it ended, where one had begun."""

    def __init__(self, error: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(error, where, remedy)
        self.error = error
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        mend = f" {self.remedy}" if self.remedy else ""
        end = "" if not place and self.error.endswith((".", "!", "?")) else "."
        return f"{self.error}{place}{end}{mend}"

    def as_dict(self) -> dict[str, str]:
        return {"error": self.error, "where": self.where, "remedy": self.remedy}

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from positional arguments by default; these cross process boundaries.
        return partial(type(self), where=self.where, remedy=self.remedy), (self.error,)


class ConfigError(HeadwaterError):
    """A recipe, a ``--set`` or a form holds a value that cannot be used. Never retried."""


class InputError(HeadwaterError):
    """An input is missing, empty, truncated or not what it claims to be."""


class NotFound(InputError):
    """What a person names does not exist."""


class LeaseLost(HeadwaterError):
    """Another run took over this dataset while we were working on it; nothing of ours is published."""


class MissingPackage(HeadwaterError):
    """What is asked for needs an extra that is not installed here."""


class Blocked(HeadwaterError):
    """A stage cannot run because an input dataset is not published."""


EXTRAS = {
    **dict.fromkeys(("deepspeed", "safetensors", "torch"), "train"),
    **dict.fromkeys(("aiosqlite", "httpx", "prefect", "sqlalchemy"), "prefect"),
    **dict.fromkeys(("fastapi", "httptools", "starlette", "uvicorn", "uvloop"), "serve"),
}
"""What is installed only if it is asked for, and the name to ask for it by."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'dedup'? `` where a name is much like a known one; nothing otherwise."""
    found = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.6)
    return f"Did you mean {found[0]!r}? " if found else ""


def missing_package(error: BaseException, where: str = "") -> MissingPackage | None:
    """An import that failed, as the sentence that says what to install; None for any other error."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
        return None
    return MissingPackage(
        f"this needs {package}, which is not installed here",
        where=where,
        remedy=f"pip install 'headwater[{EXTRAS[package]}]'",
    )


def describe_os_error(error: OSError, where: str = "") -> HeadwaterError:
    """What the operating system refused, as a sentence: the operator's to mend."""
    causes = {
        errno.ENOSPC: ("the disk is full", "Free space (headwater gc) and run again: what is finished is kept."),
        errno.EDQUOT: ("the disk quota is used up", "Free space or choose another --workspace."),
        errno.EROFS: ("the file system is read-only", "Choose a writable --workspace."),
        errno.EACCES: ("no permission to read or write", "Mend its permissions, or choose a writable --workspace."),
        errno.EPERM: ("it is not permitted", "Mend its permissions, or choose another --workspace."),
        errno.ENOENT: ("there is no such file", "Check the path."),
        errno.EISDIR: ("this is a folder, not a file", "Name a file."),
        errno.ENOTDIR: ("this is a file, not a folder", "Name a folder."),
        errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n)."),
    }
    cause, remedy = causes.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, ""))
    return HeadwaterError(cause, where=where or str(error.filename or ""), remedy=remedy)


def disk_full(error: BaseException, where: str = "") -> HeadwaterError | None:
    """The error as the full disk that it is, in whatever words a library says so; None if it is another one.

    numpy's ``tofile`` knows how much it wrote and no more, and torch wraps the system's words in an error of its own.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HeadwaterError):
        code = getattr(seen, "errno", None)
        # A document that holds these words may be quoted by an error about its contents: that is another kind.
        said = isinstance(seen, OSError | RuntimeError | sqlite3.Error) and DISK_FULL.search(str(seen))
        if code in (errno.ENOSPC, errno.EDQUOT) or said:
            return describe_os_error(
                OSError(code or errno.ENOSPC, ""), where or str(getattr(seen, "filename", "") or "")
            )
        seen = seen.__cause__ or seen.__context__
    return None
