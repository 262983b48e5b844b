"""Whether the process in a container does its work: the question behind the image's HEALTHCHECK.

    python -m flows.operate.health

``HEADWATER_HEALTH`` says where to look. An address must answer 200: a server's. A file must have been touched lately: a
worker touches it while it polls. Without the variable there is nothing to ask, and a container is healthy while it runs.
Only the standard library is imported, for this is asked every few seconds.
"""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

VARIABLE = "HEADWATER_HEALTH"
SILENCE_S = 90.0
"""A file older than this belongs to a process that hangs. Workers poll every 10 s and back off to a minute."""


def complaint(target: str, now: float) -> str | None:
    """What is wrong, or None."""
    if not target:
        return None
    if target.startswith(("http://", "https://")):
        return _of_address(target)
    try:
        silence = now - Path(target).stat().st_mtime
    except FileNotFoundError:
        return "the worker has not polled yet"
    return f"the worker has not polled for {silence:.0f} s" if silence > SILENCE_S else None


def _of_address(target: str) -> str | None:
    try:
        with urllib.request.urlopen(target, timeout=5):
            return None
    except (urllib.error.URLError, OSError) as error:
        return f"{target} does not answer: {error}"


if __name__ == "__main__":
    sys.exit(complaint(os.environ.get(VARIABLE, ""), time.time()))
