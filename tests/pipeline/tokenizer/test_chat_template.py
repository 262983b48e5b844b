"""One way to write a chat: Jinja, Python and Hugging Face agree."""

from collections.abc import Mapping, Sequence

import jinja2
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import _compile_jinja_template

from pipeline.tokenizer import Tokenizer
from pipeline.tokenizer.chat_template import CHAT_TEMPLATE
from pipeline.tokenizer.model import ASSISTANT, BOS, END

messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=40)}),
    max_size=6,
)


def render_chat(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False) -> str:
    """The form by its own definition."""
    turns = "".join(f"<|{message['role']}|>{message['content'].strip()}{END}" for message in messages)
    return BOS + turns + (ASSISTANT if add_generation_prompt else "")


def compile_template() -> jinja2.Template:
    """As transformers compiles it, with its own reading of ``{% generation %}``."""
    return _compile_jinja_template(CHAT_TEMPLATE)


def refuse(reason: str) -> None:
    raise ValueError(reason)


@settings(max_examples=100, deadline=None)
@given(chat=messages, prompt=st.booleans())
def test_jinja_and_python_write_the_same(chat, prompt) -> None:
    template = compile_template()
    written = template.render(messages=chat, add_generation_prompt=prompt, bos_token="<s>", raise_exception=refuse)
    assert written == render_chat(chat, prompt)


def test_an_unknown_role_is_refused() -> None:
    chat = [{"role": "ghost", "content": "x"}]
    with pytest.raises(ValueError, match="role ghost"):
        compile_template().render(messages=chat, bos_token="<s>", raise_exception=refuse)


@pytest.mark.parametrize("model_type", [None, "llama"])
def test_transformers_loads_it_and_builds_the_same_ids(
    tokenizer_dir, tokenizer: Tokenizer, tmp_path, model_type
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((tokenizer_dir / name).read_bytes())
    if model_type:
        (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    loaded = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 2, 3)
    text = "  The river\n\n    runs 42 times 🎉"
    assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert loaded.decode(tokenizer.encode(text)) == text
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Where does the river run?\n"},
        {"role": "assistant", "content": "To the sea."},
    ]
    by_hand = [tokenizer.bos_id]
    for message in chat:
        by_hand += [tokenizer.token_id(f"<|{message['role']}|>"), *tokenizer.encode(message["content"].strip())]
        by_hand.append(tokenizer.token_id("<|end|>"))
    assert loaded.apply_chat_template(chat, tokenize=True)["input_ids"] == by_hand
    assert loaded.apply_chat_template(chat, tokenize=False) == render_chat(chat)
    marked = loaded.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    taught = [token for token, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    assert taught == [*tokenizer.encode("To the sea."), tokenizer.token_id("<|end|>")]
