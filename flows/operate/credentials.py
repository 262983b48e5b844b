"""The secret by which this workspace's Prefect server knows us, and the folder in which the server's files lie.

Whoever may call the API of a Prefect server may run programs as the user of its workers. So a server of ours always asks
for a user and password (basic authentication). The secret, ``user:password``, is

* the user's own: in a file named by ``HEADWATER_API_AUTH_FILE``, or in ``PREFECT_API_AUTH_STRING``; or else
* generated once for a workspace: ``prefect/api_auth``, mode 0600, in a folder of mode 0700 that holds the server's database
  and its key too. It is used with this workspace's own server and never sent to another one.

It travels to child processes in their environment and stands on no command line, in no log and in no form. Nothing here
imports Prefect, which reads its settings when it is imported.
"""

import os
import secrets
from pathlib import Path

from infra.errors import ConfigError

AUTH_FILE = "HEADWATER_API_AUTH_FILE"
CLIENT_AUTH, SERVER_AUTH = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
GENERATED = "api_auth"
USER = "headwater"
OTHERS = 0o077
"""The mode bits by which anybody but the owner may do something."""


def private_folder(folder: Path) -> Path:
    """The folder, made if need be, which nobody but its owner can enter."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close(folder)
    except OSError as error:
        raise ConfigError(
            f"the folder of the Prefect server's files cannot be made private ({error.strerror})",
            where=str(folder),
            remedy="It must belong to you: use a workspace of your own, or remove that folder.",
        ) from None
    return folder


def auth_string() -> str | None:
    """``user:password`` as the user has set it, or None. Raises ConfigError for a file that holds none."""
    path = os.environ.get(AUTH_FILE)
    if path is None:
        return os.environ.get(CLIENT_AUTH) or os.environ.get(SERVER_AUTH) or None
    try:
        secret = Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"the file with the server's credentials cannot be read ({error.strerror})",
            where=path,
            remedy=f"Mend {AUTH_FILE}, or unset it.",
        ) from error
    if ":" not in secret or "\n" in secret:
        raise ConfigError(
            "the file with the server's credentials does not hold user:password in one line",
            where=path,
            remedy="Write one line, user:password, readable by its owner only.",
        )
    return secret


def generated_auth(home: Path) -> str | None:
    """The secret of the workspace whose Prefect folder this is; None if there is none, or it is another user's."""
    file = home / GENERATED
    try:
        secret = file.read_text().strip()
        _close(file)
    except (FileNotFoundError, PermissionError):
        return None
    return secret or None


def generate_auth(home: Path) -> str:
    """The workspace's secret, made if it has none."""
    private_folder(home)
    present = generated_auth(home)
    if present is not None:
        return present
    fresh = home / f".{GENERATED}.{os.getpid()}"
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(f"{USER}:{secrets.token_urlsafe(24)}\n")
        fresh.replace(home / GENERATED)
    except OSError as error:
        raise ConfigError(
            f"the server's password cannot be written ({error.strerror})",
            where=str(home),
            remedy=f"Make that folder writable, or name a file of your own in {AUTH_FILE}.",
        ) from None
    return generated_auth(home) or generate_auth(home)


def auth_place(home: Path) -> str:
    """Where a person finds the secret, for a message."""
    if os.environ.get(AUTH_FILE):
        return os.environ[AUTH_FILE]
    return str(home / GENERATED) if auth_string() == generated_auth(home) else f"${CLIENT_AUTH}"


def use_auth(secret: str | None, *, serving: bool = False) -> None:
    """Give the secret to this process's Prefect and to its children; ``serving`` to a server among them too."""
    if secret is None:
        return
    os.environ[CLIENT_AUTH] = secret
    if serving:
        os.environ.setdefault(SERVER_AUTH, secret)


def _close(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & OTHERS:
        path.chmod(mode & 0o7777 & ~OTHERS)
