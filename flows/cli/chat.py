"""``headwater chat``: talk with a model in the terminal."""

import sys
from typing import Annotated

import typer

from flows.cli.options import LabelOption, WorkspaceOption, console, open_store, sampling_of
from flows.models import MODEL_HELP, model_folder
from infra.errors import InputError

ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]


def command(
    model: ModelArgument = "export",
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Keep the likeliest tokens up to this mass.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Same seed, same replies.")] = 0,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
) -> None:
    from training.chat import ChatSession

    sampling = sampling_of(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    with model_folder(open_store(workspace), model, label) as folder:
        session = ChatSession.open(folder, system=system, sampling=sampling)
    out = console()
    out.print(f"{model}\nAn empty line or Ctrl-D ends the conversation.", markup=False)
    while True:
        try:
            text = input("you> ").strip()
        except EOFError:
            text = ""
        if not text:
            return
        sys.stdout.write("model> ")
        try:
            for piece in session.stream(text):
                sys.stdout.write(piece)
                sys.stdout.flush()
        except InputError as error:  # a message that is too long: the conversation is as it was
            if not sys.stdin.isatty():
                raise
            sys.stdout.write(str(error))
        sys.stdout.write("\n")
