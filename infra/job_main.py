"""The frame around a job's main: what its launcher relies on.

* ``--request FILE`` is read.
* SIGUSR1 writes the stacks of all threads to the rank's log: that is how a stall is explained.
* A ``HeadwaterError`` is written to ``error.json`` and ends the rank with code 78: the job is not started again, and the
  user reads the sentence.
* ``Preempted`` says that the job was told to stop and has left a checkpoint: code 75, to be started again.
* Every other exception is a crash, from which the job may be resumed.
* A rank that has done its work leaves at once, without the interpreter's own end (``leave``).
"""

import argparse
import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from infra.errors import ConfigError, HeadwaterError, InputError
from infra.job import JobRequest, load_request
from infra.store.files import create_exclusive

PREEMPTED_EXIT = 75
REFUSED_EXIT = 78
ERROR_FILE = "error.json"


class Preempted(Exception):
    """The job was told to stop (SIGTERM) and has saved its state."""


def job_main(run: Callable[[JobRequest], None]) -> NoReturn:
    """Read the request and run it, in every rank of a job; the process ends with it."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("--request", type=Path, required=True)
    path = parser.parse_args().request
    try:
        run(load_request(path))
        leave()
    except Preempted:
        leave(PREEMPTED_EXIT)
    except HeadwaterError as error:
        traceback.print_exc()
        record = {"kind": type(error).__name__, **error.as_dict(), "rank": os.environ.get("RANK", "0")}
        # The first rank to fail knows the cause; the others mostly fail because of it.
        create_exclusive(str(path.parent / ERROR_FILE), json.dumps(record).encode())
        leave(REFUSED_EXIT)


def leave(code: int = 0) -> NoReturn:
    """End this rank without the interpreter's own end, which a rank may not survive.

    Other ranks may sit in a collective that an orderly shutdown would wait for. And a thread of gloo that has yet to drop
    the tensors of its last exchange needs the interpreter's lock for it: where the end has begun, that aborts the process,
    after all its work (DeepSpeed keeps a process group, and so its threads, to the last).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def read_error(work_dir: Path) -> HeadwaterError | None:
    """What a rank refused to do, or None."""
    path = work_dir / ERROR_FILE
    if not path.exists():
        return None
    raw = json.loads(path.read_text())
    kinds = {kind.__name__: kind for kind in (ConfigError, InputError)}
    return kinds.get(raw["kind"], HeadwaterError)(raw["error"], where=raw["where"], remedy=raw["remedy"])
