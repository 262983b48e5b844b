"""``headwater export``: a model as a Hugging Face folder of its own."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json
from flows.models import model_dataset


def command(
    to: Annotated[Path, typer.Option("--to", help="A new folder for the model.")],
    model: Annotated[str, typer.Argument(help="A stage, name@label, or name/fingerprint.")] = "export",
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from training.export import export_model

    dataset = model_dataset(open_store(workspace), model, label)
    files = export_model(Path(dataset.root), to)
    if json:
        print_json({"model": f"{dataset.name}/{dataset.manifest.fingerprint}", "folder": to, "files": files})
    else:
        console().print(f"{dataset.name}/{dataset.manifest.fingerprint} -> {to} ({len(files)} files)", markup=False)
