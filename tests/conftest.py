"""What all tests of one process share."""

import sys


def pytest_sessionfinish() -> None:
    """Leave the process group of one that engine tests joined.

    It is joined once a process: DeepSpeed keeps the first group for good and fails on a second one. And it must be left
    before the interpreter ends, or gloo's threads abort the exit.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()
