"""Pretraining with rows that do harm: run by test_pretrain in place of ``training.pretrain``.

``POISON`` names rows by their tokens, and what they do when they are first met (a later epoch meets them again): ``nan`` and
``spike`` spoil the loss of their micro batch, ``hang`` puts the rank to sleep, in the first attempt only.
"""

import json
import os
import time
from pathlib import Path

import training.pretrain as pretrain
from training.validation import summed_loss

FACTORS = {"nan": float("nan"), "spike": 1e3, "hang": 1.0}
POISON: dict[str, str] = json.loads(os.environ.get("POISON", "{}"))


def name_of(tokens) -> str:
    return ",".join(str(int(token)) for token in tokens)


def sleep_for_ever() -> None:
    marker = Path(os.environ["MARKER"])
    if not marker.exists():
        marker.touch()
        time.sleep(3600)


def poisoned(model, batch, z_loss=0.0):
    losses = summed_loss(model, batch, z_loss)
    for row in batch.input_ids:
        harm = POISON.pop(name_of(row), None)
        if harm == "hang":
            sleep_for_ever()
        if harm is not None:
            losses = {"loss": losses["loss"] * FACTORS[harm]}
    return losses


if __name__ == "__main__":
    pretrain.summed_loss = poisoned
    pretrain.main()
