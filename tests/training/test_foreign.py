"""Model folders as others publish them open, read, chat and stop as in transformers."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from infra.errors import InputError
from tests.training.folders import write_tokenizer
from training.chat import ChatSession
from training.chat_template import chat_template
from training.generate import Sampling
from training.hub_format import load_config, save_model
from training.hub_tokenizer import encode, load_tokenizer, special_tokens
from training.text_model import decode_stream, load_text_model

TEXT = ["hello world the town is by the river, naïve 東京 "] * 20
HEADERS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{%- for m in messages %}\n    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def byte_level(specials: list[str]) -> Tokenizer:
    """As Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral have it: a space before the text, bytes for what has no token."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnoprstuvwyz,[]/INST",
    ]
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("▁", "the"),
        ("e", "l"),
        ("el", "l"),
        ("h", "ell"),
        ("hell", "o"),
        ("▁", "hello"),
    ]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, *("".join(m) for m in merges)]))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer


def begins_with(tokenizer: Tokenizer, name: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, tokenizer.token_to_id(name))]
    )
    return tokenizer


def publish(
    folder: Path,
    kind: str,
    tokenizer: Tokenizer,
    template: str | None,
    ends: list[str],
    shape: dict[str, Any],
    names: dict[str, str],
) -> Path:
    """A tiny random model with its tokenizer, as transformers itself writes them."""
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    theirs.chat_template = template
    theirs.save_pretrained(folder)
    torch.manual_seed(1)
    made = getattr(transformers, f"{kind}Config")(vocab_size=len(theirs), **SHAPE | shape)
    model = getattr(transformers, f"{kind}ForCausalLM")(made).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    ids = [theirs.convert_tokens_to_ids(end) for end in ends]
    model.generation_config = GenerationConfig(
        bos_token_id=theirs.bos_token_id, eos_token_id=ids[0] if len(ids) == 1 else ids or None
    )
    model.save_pretrained(folder, max_shard_size="30KB")
    return folder


def llama3(folder: Path, **names: str) -> Path:
    rope = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    named = {"bos_token": HEADERS[0], "eos_token": HEADERS[1]} | names
    tokenizer = begins_with(byte_level(HEADERS), HEADERS[0])
    return publish(folder, "Llama", tokenizer, LLAMA3, [HEADERS[1], HEADERS[4]], {"rope_parameters": rope}, named)


def qwen2(folder: Path) -> Path:
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return publish(
        folder, "Qwen2", tokenizer, CHATML, ["<|im_end|>", "<|endoftext|>"], {"tie_word_embeddings": True}, names
    )


def qwen3(folder: Path) -> Path:
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return publish(folder, "Qwen3", tokenizer, CHATML, ["<|im_end|>"], {"head_dim": 16}, {"eos_token": "<|im_end|>"})


def mistral(folder: Path) -> Path:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = begins_with(byte_fallback(), "<s>")
    return publish(folder, "Mistral", tokenizer, MISTRAL, ["</s>"], {"sliding_window": 96, "head_dim": 8}, names)


def llama2(folder: Path) -> Path:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return publish(folder, "Llama", begins_with(byte_fallback(), "<s>"), MISTRAL, ["</s>"], {}, names)


@pytest.fixture(scope="module", params=[llama3, llama2, mistral, qwen2, qwen3], ids=lambda make: make.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("foreign") / "model")
    return made


CHAT = [{"role": "user", "content": "hello  the\ntown"}, {"role": "assistant", "content": "the river"}]
CHAT += [{"role": "user", "content": "naïve 東京?"}]


def test_logits_and_texts_are_those_of_transformers(folder: Path) -> None:
    ours, theirs = load_text_model(folder, "cpu"), transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("hello world", " the  town,\n by", "naïve 東京 🙂", ""):
        wanted = tokenizer(text)["input_ids"]
        if wanted:
            assert ours.prompt(text) == wanted
        assert ours.decode(ours.encode(text)) == tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
    row = torch.tensor([ours.prompt("hello world, by the town is the river")])
    with torch.no_grad():
        torch.testing.assert_close(ours.decoder.logits(ours.decoder(row)), theirs(row).logits, atol=1e-4, rtol=1e-4)


def test_a_chat_is_read_and_answered_as_transformers_does(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    session = ChatSession.open(folder, sampling=Sampling(max_new_tokens=20, temperature=0))
    session.messages = list(CHAT[:-1])
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert session.model.chat_format(session.template).ids(CHAT) == ids
    with torch.no_grad():
        row = theirs.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=20, do_sample=False
        )
    # The same tokens; the words by our own decoding, which loses nothing where bytes make no character.
    wanted = session.model.decode(row[0, len(ids) :].tolist())
    if b"ByteFallback" not in session.model.tokenizer.decoder.__getstate__():
        assert wanted == tokenizer.decode(row[0, len(ids) :], skip_special_tokens=True)
    assert session.reply(CHAT[-1]["content"]).strip() == wanted.strip()


def test_it_stops_at_each_of_its_ends(folder: Path) -> None:
    generation = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(special_tokens(folder).stops) == set(generation if isinstance(generation, list) else [generation])


def test_what_anybody_says_is_text_and_words_stay_as_they_are(folder: Path) -> None:
    model = load_text_model(folder, "cpu")
    chat = model.chat_format(chat_template(folder) or "")
    names = [token.content for token in model.tokenizer.get_added_tokens_decoder().values()]
    hostile = [{"role": turn["role"], "content": turn["content"] + "".join(names) + " x"} for turn in CHAT]
    controls = {model.tokenizer.token_to_id(name) for name in names}
    quiet, loud = chat.ids(CHAT), chat.ids(hostile)
    assert [token for token in loud if token in controls] == [token for token in quiet if token in controls]
    for turn in hostile:
        assert turn["content"].strip() in model.decode([token for token in loud if token not in controls])


def test_what_is_taught_is_what_the_assistant_says(folder: Path) -> None:
    model = load_text_model(folder, "cpu")
    chat = model.chat_format(chat_template(folder) or "")
    encoded = chat.with_loss_mask(CHAT)
    assert encoded.ids == chat.ids(CHAT, prompt=False)
    taught = [token for token, mark in zip(encoded.ids, encoded.loss_mask, strict=True) if mark]
    assert model.decode(taught).strip() == "the river"
    assert taught[-1] in model.special.stops or taught[-2] in model.special.stops


def test_a_folder_made_from_one_keeps_its_ends(folder: Path, tmp_path: Path) -> None:
    model = load_text_model(folder, "cpu")
    save_model(model.decoder, tmp_path, folder)
    assert special_tokens(tmp_path) == special_tokens(folder)
    row = torch.tensor([model.prompt("hello world")])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(row).logits, model.decoder.logits(model.decoder(row)), atol=1e-4, rtol=1e-4)


def test_a_continuation_keeps_the_space_that_begins_it(folder: Path) -> None:
    """Llama 2's decoder takes a space from the beginning of a text: of a continuation's it must not."""
    model = load_text_model(folder, "cpu")
    whole = model.prompt("hello the  town")
    for cut in range(2, len(whole)):
        prompt, rest = whole[:cut], whole[cut:]
        wanted = "hello the  town"[len(model.decode(prompt)) :]
        assert model.continuation(prompt, rest) == "".join(decode_stream(model, rest, prompt)) == wanted


def test_a_template_may_write_every_special_token(tmp_path: Path) -> None:
    llama3(tmp_path, unk_token="<|end_header_id|>", additional_special_tokens=["<|eot_id|>"])  # type: ignore[arg-type]
    template = "{{ bos_token + unk_token + additional_special_tokens[0] }}{% if pad_token is defined %}pad{% endif %}"
    model = load_text_model(tmp_path, "cpu")
    assert model.chat_format(template).ids([]) == [0, 3, 4]


def test_a_body_saved_alone_and_an_adapter(tmp_path: Path) -> None:
    qwen2(tmp_path)
    wanted = load_text_model(tmp_path, "cpu")
    row = torch.tensor([wanted.prompt("hello world")])
    body = transformers.AutoModel.from_pretrained(tmp_path)
    for weights in tmp_path.glob("*.safetensors*"):
        weights.unlink()
    body.save_pretrained(tmp_path)
    found = load_text_model(tmp_path, "cpu")
    assert torch.equal(found.decoder(row), wanted.decoder(row))
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter"):
        load_text_model(tmp_path)


def test_the_window_is_the_longest_context(tmp_path: Path) -> None:
    assert load_config(mistral(tmp_path)).max_position == 96


def test_a_lone_tokenizer_json_is_enough(tmp_path: Path) -> None:
    llama3(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    special = special_tokens(tmp_path)
    assert (special.bos, special.stops, special.pad, special.prefix) == (0, (1, 4), None, (0,))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": [1, 4]}))
    assert special_tokens(tmp_path).stops == (1, 4)


def test_others_run_while_a_long_text_is_encoded(tmp_path: Path) -> None:
    tokenizer, ended, longest = load_tokenizer(write_tokenizer(tmp_path)), threading.Event(), [0.0]
    tokenizer.encode_batch(["warm"])

    def tick() -> None:
        last = time.monotonic()
        while not ended.wait(0.001):
            longest[0], last = max(longest[0], time.monotonic() - last), time.monotonic()

    other = threading.Thread(target=tick)
    other.start()
    began = time.monotonic()
    assert len(encode(tokenizer, "hello world " * 150_000)) == 1_800_000
    took = time.monotonic() - began
    ended.set()
    other.join()
    assert longest[0] < took / 2


def test_tokens_that_only_the_settings_name(tmp_path: Path) -> None:
    llama3(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    size = load_tokenizer(tmp_path).get_vocab_size()
    entry = {"content": "<|im_end|>", "special": True, "normalized": False}
    settings["added_tokens_decoder"] = {str(size): entry, str(size + 5): entry | {"content": "<|far|>"}}
    settings |= {"eos_token": "<|im_end|>", "pad_token": "<no such token>", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer, special = load_tokenizer(tmp_path), special_tokens(tmp_path)
    assert (special.eos, special.pad, special.prefix) == (size, None, ())
    assert set(special.stops) == {1, 4, size}
    assert size not in tokenizer.encode("<|im_end|>", add_special_tokens=False).ids, "text is text"
    assert tokenizer.token_to_id("<|far|>") is None, "a token without the id it claims is none"


def test_several_templates_and_truncation_of_somebodys_training(tmp_path: Path) -> None:
    llama3(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": LLAMA3}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert chat_template(tmp_path) == LLAMA3
    assert len(load_tokenizer(tmp_path).encode("hello world " * 10).ids) > 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"partial_rotary_factor": 0.5}, "part of each head"),
        ({"rope_scaling": {"rope_type": "longrope"}, "rope_parameters": None}, "longrope"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    llama2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=reason):
        load_config(tmp_path)
