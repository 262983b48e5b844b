"""``headwater judge``: two models answer the same held-out prompts, and a third one says who did better."""

from typing import Annotated, Any

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json
from flows.models import MODEL_HELP, model_folder
from infra.errors import InputError
from infra.store.store import Store


def command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    against: Annotated[str, typer.Option(help="The model it is compared with.")],
    endpoint: Annotated[str, typer.Option(help="Server with OpenAI's chat interface: http://127.0.0.1:8000/v1.")],
    judge: Annotated[str, typer.Option(help="The judging model's name on that server.")],
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts, from the first on.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    seed: int = 0,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Questions asked at a time.")] = 4,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from alignment.judge import Duel, Server, check_address
    from alignment.judge import judge as settle_all
    from alignment.preferences import read_pairs

    check_address(endpoint)
    store = open_store(workspace)
    preferences = store.get_ref("preferences", label)
    if preferences is None:
        raise InputError(
            "there are no held-out prompts", where=str(store.home), remedy="Run a recipe's preferences stage first."
        )
    pairs = read_pairs(preferences.local("data/pairs.parquet"), "held_out")[:prompts]
    conversations = [[{"role": turn.role, "content": turn.content} for turn in pair.prompt] for pair in pairs]
    replies = [
        _replies(store, name, label, conversations, max_new_tokens, temperature, seed) for name in (model, against)
    ]
    duels = [
        Duel("\n".join(f"{turn['role']}: {turn['content']}" for turn in turns), left, right)
        for turns, left, right in zip(conversations, *replies, strict=True)
    ]
    view: dict[str, Any] = {"model": model, "against": against, "judge": judge}
    view |= settle_all(duels, Server(endpoint, judge).ask, parallel)
    if json:
        print_json(view)
        return
    rate = view["win_rate"]
    console().print(
        f"{model} against {against}, {view['prompts']} prompts, judged by {judge} in both orders\n"
        f"  wins {view['wins']}, losses {view['losses']}, ties {view['ties']}, undone by the swap {view['flipped']}\n"
        f"  win rate {rate['value']:.3f} ({rate['low']:.3f} – {rate['high']:.3f}, 95 %), ties count half",
        markup=False,
    )


def _replies(
    store: Store,
    name: str,
    label: str,
    conversations: list[list[dict[str, str]]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    from training.chat import ChatSession
    from training.generate import Sampling

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=0.95, seed=seed)
    with model_folder(store, name, label) as folder:
        session = ChatSession.open(folder, sampling=sampling)
    answers = []
    for turns in conversations:
        session.messages = list(turns[:-1])
        answers.append(session.reply(turns[-1]["content"]).strip())
    return answers
