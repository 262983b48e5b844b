"""The stage ``export`` and the command's ``export --to``: a model folder that stands on its own.

The folder opens in ``transformers`` as it is: weights, tokenizer, chat template, generation settings, and a README that
lists every dataset behind it. Before it is published it is loaded again and must give the logits of the model it was
made from. Both go weight by weight and block by block: memory is that of the largest, not of the model.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from infra.config import Config, Execution
from infra.errors import ConfigError, HeadwaterError, InputError
from infra.job import JobRequest, JobSpec, emit, finish
from infra.job_main import job_main
from infra.stage import JobStage
from infra.store.ancestry import ancestry
from infra.store.dataset import Dataset
from infra.store.files import read_json, sha256_file, write_bytes, write_json
from training.chat_template import chat_template
from training.hub_format import DTYPES, load_config, open_weights, write_model
from training.model import parameter_count
from training.model_card import lineage, model_card
from training.weights import Weights

CARD = "README.md"
LINEAGE = "lineage.json"


class ExportConfig(Config):
    """What is exported."""

    model: Literal["pretrain", "sft", "ppo", "dpo", "grpo"] = "ppo"
    """The stage whose weights are exported."""
    dtype: Literal["stored", "fp32", "bf16"] = "stored"
    """Precision of the exported weights."""
    threads: Annotated[int, Execution()] = Field(default=2, ge=1)
    """Threads of the process."""


STAGE = JobStage(
    name="export",
    code_version=1,
    config=ExportConfig,
    inputs=lambda config: {config.model: config.model, "tokenizer": "tokenizer"},
    job=lambda config: JobSpec("training.export", ranks=1, threads_per_rank=config.threads),
    description="Writes the chosen model as a Hugging Face folder with a model card, and proves that it loads.",
)


def run(request: JobRequest) -> None:
    """Write the folder, load it again, compare, and describe it."""
    config = ExportConfig.model_validate(request.config)
    emit(request, "phase", name="export")
    source = request.inputs[config.model]
    folder = source.local("data/model")
    weights = open_weights(folder, None if config.dtype == "stored" else DTYPES[config.dtype])
    # The model's own tokenizer: a model that was tuned from one made elsewhere brings another than the recipe's.
    names = write_model(weights, request.data_dir, folder)
    difference = verify_reload(weights, request.data_dir)
    write_card(source, request.data_dir)
    outputs = {f"data/{name}": True for name in names}
    # The card names fingerprints, which may differ where the weights do not: it is no part of the model's identity.
    outputs |= {f"data/{CARD}": False, f"data/{LINEAGE}": False}
    stats = {"parameters": parameter_count(weights.config), "reload_difference": difference}
    finish(request, outputs, {"model": config.model, **stats})


def verify_reload(weights: Weights, folder: Path) -> float:
    """Read the folder again and compare logits on tokens from all over the vocabulary. Raises unless they are equal."""
    length = min(256, weights.config.max_position)
    row = torch.linspace(0, weights.config.vocab_size - 1, length).long().unsqueeze(0)
    logits = [each.logits(row) for each in (weights, open_weights(folder))]
    difference = float((logits[0] - logits[1]).abs().max())
    if not torch.equal(*logits):
        raise HeadwaterError(
            f"the exported model gives other logits than its source (difference {difference:g})",
            where=str(folder),
            remedy="Run the stage again; if it repeats, the disk or the weights are damaged.",
        )
    return difference


def write_card(dataset: Dataset, folder: Path) -> None:
    """README.md and lineage.json of a model dataset, beside its weights in ``folder``."""
    datasets = ancestry(dataset)
    dtype = read_json(folder / "config.json").get("torch_dtype", "unknown")
    chat = dataset.name != "pretrain" and chat_template(folder) is not None
    card = model_card(dataset.name, load_config(folder), dtype, chat, datasets)
    write_bytes(folder / CARD, card.encode())
    write_json(folder / LINEAGE, lineage(datasets))


def export_model(dataset_dir: Path, to_dir: Path) -> list[Path]:
    """Copy a published model to a folder of the user's; returns its files.

    ``dataset_dir`` is an ``export`` dataset or that of any stage that makes a model, which then gets its card on the
    way. Files are checked against the manifest as they are copied. A folder that holds anything else is refused; one
    that already holds this very model is left as it is.
    """
    dataset = Dataset.open(str(dataset_dir))
    files = _model_files(dataset)
    if to_dir.exists() and not to_dir.is_dir():
        raise ConfigError("the target is a file", where=str(to_dir), remedy="Give a folder to --to.")
    if to_dir.is_dir() and any(to_dir.iterdir()):
        if _holds(to_dir, files):
            return sorted(to_dir.iterdir())
        raise ConfigError("the target folder is not empty", where=str(to_dir), remedy="Give a new folder to --to.")
    beside = to_dir.parent / f".{to_dir.name}.{uuid.uuid4().hex[:8]}.tmp"
    beside.mkdir(parents=True)
    try:
        for name, (source, digest) in files.items():
            shutil.copyfile(source, beside / name)
            if sha256_file(beside / name) != digest:
                raise InputError(f"{name} is not what its manifest says", where=str(dataset_dir))
        if CARD not in files:
            write_card(dataset, beside)
        os.replace(beside, to_dir)
    except OSError as error:
        raise HeadwaterError(f"the model cannot be written: {error.strerror}", where=str(to_dir)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return sorted(to_dir.iterdir())


def _model_files(dataset: Dataset) -> Mapping[str, tuple[Path, str]]:
    """File name -> (path, digest) of the model in a dataset."""
    for prefix in ("data/model/", "data/"):
        found = dataset.files(prefix)
        if any(output.path == f"{prefix}config.json" for output in found):
            return {
                output.path.removeprefix(prefix): (dataset.local(output.path), output.digest)
                for output in found
                if "/" not in output.path.removeprefix(prefix)
            }
    raise InputError("this dataset holds no model", where=dataset.root, remedy="Name a stage that makes one.")


def _holds(folder: Path, files: Mapping[str, tuple[Path, str]]) -> bool:
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == digest for name, (_, digest) in files.items()
    )


if __name__ == "__main__":
    job_main(run)
