"""One thread a test process: models this small gain nothing from more, and threads of parallel tests wait for each other."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
