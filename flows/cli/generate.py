"""``headwater generate``: continue a text, or answer one message with ``--chat``."""

import sys
from typing import Annotated

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, open_store, print_json, sampling_of
from flows.models import MODEL_HELP, model_folder


def command(
    prompt: Annotated[str, typer.Argument(help="The text to continue, or the message to answer.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "export",
    chat: Annotated[bool, typer.Option("--chat", help="Answer in the chat template instead of continuing.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(min=0)] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 1.0,
    min_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="Tokens that end a reply are spared.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the reply. Repeatable.")] = None,
    seed: int = 0,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from training.chat import ChatSession
    from training.text_model import load_text_model

    sampling = sampling_of(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, stop=tuple(stop or ()), seed=seed,
    )  # fmt: skip
    with model_folder(open_store(workspace), model, label) as folder:
        if chat:
            pieces = ChatSession.open(folder, sampling=sampling).stream(prompt)
        else:
            pieces = load_text_model(folder).complete(prompt, sampling)
    if json:
        print_json({"model": model, "prompt": prompt, "text": "".join(pieces)})
        return
    if not chat:
        sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
