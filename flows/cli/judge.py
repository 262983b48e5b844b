"""``headwater judge``: two models answer the same held-out prompts, and others say who did better."""

from typing import Annotated, Any

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json, sampling_of
from flows.models import MODEL_HELP, model_folder
from infra.errors import ConfigError, InputError
from infra.store.store import Store


def command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    against: Annotated[str, typer.Option(help="The model it is compared with.")],
    judge: Annotated[
        list[str],
        typer.Option(help="The judging model's name on the server, or package.module:NAME; once for each judge."),
    ],
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Server with OpenAI's chat interface: http://127.0.0.1:8000/v1; one, or one for each model."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts, from the first on.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    seed: int = 0,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Questions asked at a time.")] = 4,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of a judge, in tokens.")] = 256,
    price_in: Annotated[float | None, typer.Option(min=0, help="What a million tokens of questions cost.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="What a million tokens of answers cost.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Do not start what could cost more.")] = None,
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Say what it would take, and ask nobody.")] = False,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from dataclasses import asdict

    from alignment.forms import messages_to_json
    from alignment.judge import Duel, check_cost, estimate, settle
    from alignment.preferences import read_pairs
    from alignment.verdicts import verdict

    store = open_store(workspace)
    judges = _judges(store, judge, endpoint or [], answer_tokens)
    preferences = store.get_ref("preferences", label)
    if preferences is None:
        raise InputError(
            "there are no held-out prompts", where=str(store.home), remedy="Run a recipe's preferences stage first."
        )
    pairs = read_pairs(preferences.local("data/pairs.parquet"), "held_out")
    conversations = _asked([messages_to_json(pair.prompt) for pair in pairs])[:prompts]
    if not conversations:
        raise InputError("all held-out prompts call tools, which are not offered here", where="preferences")
    replies = [
        _replies(store, name, label, conversations, max_new_tokens, temperature, seed) for name in (model, against)
    ]
    duels = [
        Duel("\n".join(f"{turn['role']}: {turn['content']}" for turn in turns), left, right)
        for turns, left, right in zip(conversations, *replies, strict=True)
    ]
    needed = estimate(duels, judges, price_in, price_out)
    check_cost(needed, max_cost)
    view: dict[str, Any] = {"model": model, "against": against, "judge": ", ".join(judge), "estimate": asdict(needed)}
    if not estimate_only:
        view |= verdict(duels, settle(duels, judges, parallel))
    print_json(view) if json else _show(view)


def _asked(prompts: list[list[dict[str, Any]]]) -> list[list[dict[str, str]]]:
    """Prompts, each once: of several votes on a pair each has its row, and the same duel counted again says nothing new. What
    was said with tools is left out: asked without them it is another prompt."""
    once = {str(turns): turns for turns in prompts}
    return [
        turns
        for turns in once.values()
        if turns[-1]["role"] == "user" and all(turn.keys() == {"role", "content"} for turn in turns)
    ]


def _judges(store: Store, names: list[str], endpoints: list[str], answer_tokens: int) -> list[Any]:
    """The judges by their names. Raises ConfigError for one that nothing leads to."""
    from alignment.judge import Answers, OutsideJudge, OutsideReward, Server, asked_judge, check_address, outside_judge
    from infra.extensions import load, reference_of

    served = [name for name in names if reference_of(name, "judge") is None]
    if served and len(endpoints) not in (1, len(served)):
        raise ConfigError(
            f"{len(endpoints)} endpoints are given for the judges {', '.join(served)}",
            where="--endpoint",
            remedy="Give one for all, or one for each, in their order.",
        )
    addresses = dict(zip(served, endpoints if len(endpoints) == len(served) else endpoints * len(served), strict=True))
    kept = store.home / "judge" / "answers.jsonl"
    judges = []
    for name in dict.fromkeys(names):
        if name in addresses:
            check_address(addresses[name])
            server = Server(addresses[name], name, answer_tokens=answer_tokens)
            answers = Answers(kept, f"{server.url} {name} {answer_tokens}")
            judges.append(asked_judge(name, server.ask, answers, answer_tokens))
        else:
            kinds: Any = OutsideJudge | OutsideReward
            judges.append(outside_judge(name, load(name, "judge", kinds)))
    return judges


def _show(view: dict[str, Any]) -> None:
    needed = view["estimate"]
    price = "" if needed["cost"] is None else f", up to {needed['cost']:.2f}"
    lines = [
        f"{view['model']} against {view['against']}, judged by {view['judge']} in both orders",
        f"  {needed['calls']} questions, about {needed['tokens_in']:,} tokens in and at most {needed['tokens_out']:,} out{price}",
    ]
    if "win_rate" in view:
        rate, even = view["win_rate"], view["length_controlled"]
        lines += [
            f"  {view['prompts']} prompts: wins {view['wins']}, losses {view['losses']}, ties {view['ties']}, undone by the "
            f"swap {view['flipped']}",
            f"  win rate {rate['value']:.3f} ({rate['low']:.3f} – {rate['high']:.3f}, 95 %), ties count half",
            f"  between replies of one length {even['value']:.3f} ({even['low']:.3f} – {even['high']:.3f})",
        ]
    if view.get("agreement") is not None:
        lines.append(f"  agreement of the judges (Krippendorff's alpha) {view['agreement']:.2f}")
    console().print("\n".join(lines), markup=False)


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

    sampling = sampling_of(max_new_tokens=max_new_tokens, temperature=temperature, top_p=0.95, seed=seed)
    with model_folder(store, name, label) as folder:
        session = ChatSession.open(folder, sampling=sampling)
    answers = []
    for turns in conversations:
        session.messages = list(turns[:-1])
        answers.append(session.reply(turns[-1]["content"]).strip())
    return answers
