"""What all tests of one process share."""

import os
import sys

import pytest

from tests.support import REPOSITORY

LONGEST = (
    "test_whole_path.py",
    "test_fsdp.py",
    "test_checkpoint.py",
    "test_pretrain.py",
    "test_launch.py",
    "test_engine.py",
)
"""The files that take longest begin first, or the suite would end with one process at work and the other idle."""

# Processes that the tests start import nothing from their working folder, and the tests are not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_sessionfinish() -> None:
    """Leave the process group of one that engine tests joined.

    It is joined once a process: DeepSpeed keeps the first group for good and fails on a second one. And it must be left
    before the interpreter ends, or gloo's threads abort the exit.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()
