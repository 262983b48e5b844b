"""A language model of two languages, trained in a moment: the classifier's tests need one, not a good one."""

from pathlib import Path

import fasttext

from infra.store.dataset import Dataset
from tests.support import write_dataset

LINES = "__label__en the people of the town and the river\n__label__de die leute aus der stadt und der fluss\n"


def sample_dataset(folder: Path) -> Dataset:
    lines, model = folder / "languages.txt", folder / "model.bin"
    lines.write_text(LINES * 50)
    fasttext.train_supervised(str(lines), dim=4, bucket=100, epoch=5, thread=1, verbose=0).save_model(str(model))
    return write_dataset(folder / "sample", "sample", {"data/lid.176.ftz": model.read_bytes()})
