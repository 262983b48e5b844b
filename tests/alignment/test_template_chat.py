"""Models from elsewhere are taught in their own tokenizer and chat template."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from alignment.conversations import cut, fitting, render_prompt, render_reply, stop_ids
from alignment.dpo import DpoConfig, rated_replies
from alignment.forms import messages_to_json
from alignment.grpo import GrpoConfig, read_material
from alignment.template_chat import FolderTokenizer, chat_tokenizer
from alignment.turns import Conversation, Message, Rendered
from infra.errors import InputError
from pipeline.tokenizer import Tokenizer
from tests.alignment.jobs import build_world
from tests.training import test_foreign as foreign

TALK = tuple(
    Message(("user", "assistant")[number % 2], text)
    for number, text in enumerate(["hello  the\ntown", "the river", "naïve 東京?", "by the town"])
)


@pytest.fixture(scope="module", params=["llama3", "llama2", "mistral", "qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = getattr(foreign, request.param)(tmp_path_factory.mktemp("template") / "model")
    return made


def taught_runs(piece: Rendered) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for token, taught in zip(piece.ids, piece.loss_mask, strict=True):
        if taught:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def test_a_chat_has_the_ids_of_transformers_and_teaches_replies_with_their_end(folder: Path) -> None:
    tokenizer = chat_tokenizer(folder)
    assert isinstance(tokenizer, FolderTokenizer)
    theirs = AutoTokenizer.from_pretrained(folder)
    (piece,) = cut(tokenizer, Conversation("x", TALK), 120).pieces
    plain = [{"role": message.role, "content": message.content} for message in TALK]
    whole = theirs.apply_chat_template(plain, return_dict=False)
    assert piece.ids == whole[: len(piece.ids)] and not theirs.decode(whole[len(piece.ids) :]).strip()
    runs = taught_runs(piece)
    assert [tokenizer.decode(run).strip() for run in runs] == ["the river", "by the town"]
    assert all(run[-1] in stop_ids(tokenizer) for run in runs) and piece.loss_mask[-1]


def test_a_prompt_and_its_reply_are_the_training_text(folder: Path) -> None:
    tokenizer = chat_tokenizer(folder)
    (piece,) = cut(tokenizer, Conversation("x", TALK[:2]), 120).pieces
    assert render_prompt(tokenizer, TALK[:1]) + render_reply(tokenizer, TALK[1].content) == piece.ids


def test_marks_around_the_head_of_a_turn_do_not_double_it(tmp_path: Path) -> None:
    made = foreign.qwen2(tmp_path / "base")
    turn = "'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'"
    (made / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ " + turn + " }}{% endgeneration %}"
        "{% else %}{{ " + turn + " }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = chat_tokenizer(made)
    (whole,) = cut(tokenizer, Conversation("x", TALK[:2]), 120).pieces
    assert render_prompt(tokenizer, TALK[:1]) + render_reply(tokenizer, TALK[1].content) == whole.ids


def test_a_long_chat_goes_on_in_the_templates_form(folder: Path) -> None:
    tokenizer = chat_tokenizer(folder)
    whole = len(cut(tokenizer, Conversation("x", TALK), 500).pieces[0].ids)
    first, second = cut(tokenizer, Conversation("x", TALK), whole - 1).pieces
    assert second == cut(tokenizer, Conversation("x", TALK[2:]), 500).pieces[0]
    assert [len(taught_runs(piece)) for piece in (first, second)] == [1, 1]
    prompt = render_prompt(tokenizer, TALK[2:3])
    assert fitting(tokenizer, TALK[:3], len(prompt)) == TALK[2:3]


def test_what_somebody_wrote_ends_no_turn(folder: Path) -> None:
    tokenizer = chat_tokenizer(folder)
    ends = stop_ids(tokenizer)
    names = [AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(end) for end in ends]
    evil = Message("user", f"x{names[0]}y"), Message("assistant", f"a{names[-1]}b")
    (piece,) = cut(tokenizer, Conversation("x", evil), 300).pieces
    quiet = Message("user", "xy"), Message("assistant", "ab")
    (other,) = cut(tokenizer, Conversation("x", quiet), 300).pieces
    assert [sum(token in ends for token in p.ids) for p in (piece, other)] in ([2, 2], [1, 1])
    assert names[-1] in tokenizer.decode(taught_runs(piece)[0])


def test_a_template_that_takes_no_system_turn_says_so(tmp_path: Path) -> None:
    """The stage's ledger then has the sentence, and the conversation alone is lost."""
    tokenizer = chat_tokenizer(foreign.mistral(tmp_path / "base"))
    with pytest.raises(InputError, match="Only user and assistant roles are supported"):
        cut(tokenizer, Conversation("x", (Message("system", "be kind"), *TALK)), 120)


def test_what_a_template_refuses_costs_itself_in_problems_and_rated_replies(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(foreign.mistral(tmp_path / "base"))
    path, told = tmp_path / "rows.jsonl", list[str]()
    prompts: list[Any] = [
        *("1 + 1", "2 + 2", "3 + 3", "4 + 4"),
        [{"role": each, "content": "add"} for each in ("system", "user")],
    ]
    rows = [{"prompt": prompt, "answer": "2", "completion": "2", "label": True} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"weight": 0}]))
    job: Any = SimpleNamespace(
        tokenizer=tokenizer, position_limit=100, request=SimpleNamespace(inputs={}), warn=told.append, stats={}
    )
    job.config = GrpoConfig(problems=(str(path),), max_reply_tokens=8, held_out_fraction=0.5)
    training, held_out = read_material(job)
    assert len(training[0]) + len(held_out[0]) == 5 and "template_refuses" in told[-1]
    job.config = DpoConfig(loss="kto", rated=(str(path),))
    assert len(rated_replies(job)) == 4 and "template_refuses" in told[-1] and "no_weight" in told[-1]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder made here."""
    return build_world(tmp_path_factory.mktemp("own"), 40)["pretrain"].local("data/model")


def test_the_marks_of_our_own_template_are_what_we_teach(own: Path) -> None:
    """Whoever tunes an exported model further by its ``{% generation %}`` marks teaches what we taught."""
    talk = (Message("system", "be kind"), *TALK)
    (piece,) = cut(chat_tokenizer(own), Conversation("x", talk), 400).pieces
    theirs = AutoTokenizer.from_pretrained(own).apply_chat_template(
        messages_to_json(talk), return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"] == piece.ids
    assert [bool(mask) for mask in theirs["assistant_masks"]] == piece.loss_mask


def test_our_own_folder_keeps_our_own_tokenizer_and_a_folder_without_a_template_is_refused(
    own: Path, tmp_path: Path
) -> None:
    assert isinstance(chat_tokenizer(own), Tokenizer)
    made = foreign.qwen2(tmp_path / "base")
    (made / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        chat_tokenizer(made)
