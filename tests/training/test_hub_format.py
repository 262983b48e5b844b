"""Model folders open in transformers with the same logits, and folders from transformers open here."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from infra.errors import InputError
from infra.store.files import sha256_file
from tests.training.folders import TEMPLATE, tiny_model, write_tokenizer
from training.hub_format import load_config, load_model, load_reward_model, open_weights, save_model
from training.hub_tokenizer import special_tokens
from training.weights import write_safetensors

ROWS = torch.randint(8, 264, (2, 40), generator=torch.Generator().manual_seed(0))
LLAMA3 = {"kind": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 32}
YARN = {"kind": "yarn", "factor": 4.0, "original_max_position": 32}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_of_weights_has_the_bytes_that_the_library_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: weight.to(dtype) for name, weight in tiny_model().state_dict().items()}
    tensors |= {"ä": torch.arange(3.0), "half": torch.ones(2, 3, dtype=torch.float16), "row": torch.ones(5)[::2]}
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "ours", shapes, tensors.__getitem__)
    save_file({name: each.contiguous() for name, each in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": False},
        {"kv_heads": 4},
        {"kv_heads": 1, "head_dim": 16},
        {"rope_theta": 500000.0},
        {"rope_scaling": {"kind": "linear", "factor": 2.0}},
        {"rope_scaling": LLAMA3},
        {"rope_scaling": YARN},
        {"rope_scaling": YARN | {"factor": 8.0, "truncate": False, "beta_fast": 4.0, "attention_factor": 1.3}},
        {"rope_theta": 100.0, "head_dim": 32, "rope_scaling": YARN},
        {"qk_norm": True},
    ],
)
def test_logits_equal_those_of_transformers(changes: dict[str, object], tokenizer: Path, tmp_path: Path) -> None:
    model = tiny_model(**changes)
    with torch.no_grad():
        for norm in [parameter for parameter in model.parameters() if parameter.dim() == 1]:
            norm.uniform_(0.5, 1.5)
    save_model(model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ROWS)), theirs(ROWS).logits, atol=1e-5, rtol=1e-5)
        again = load_model(tmp_path)
        assert torch.equal(again(ROWS), model(ROWS))
    assert again.config == model.config.model_copy(update={"head_dim": model.config.width_of_head})


LLAMA3_OF_THEIRS = {
    "rope_theta": 20000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_OF_THEIRS = {
    "rope_theta": 100.0,
    "rope_type": "yarn",
    "factor": 4.0,
    "mscale": 0.7,
    "mscale_all_dim": 1.4,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rope", [LLAMA3_OF_THEIRS, YARN_OF_THEIRS])
def test_a_folder_from_transformers_opens_here(tied: bool, rope: dict[str, object], tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        rope_parameters=rope,
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists(), "the weights come in several files"
    ours = load_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ROWS)), theirs(ROWS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}, {"type": "linear", "factor": 2}],
)
def test_a_scaling_that_was_added_to_a_written_model_counts(
    scaling: dict[str, object], tokenizer: Path, tmp_path: Path
) -> None:
    """As model cards tell people to: beside the ``rope_parameters`` that transformers 5 and we write."""
    save_model(tiny_model(), tmp_path, tokenizer)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_parameters"]["rope_type"] == "default"
    plain = load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(written | {"rope_scaling": scaling}))
    theirs, ours = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval(), load_model(tmp_path)
    with torch.no_grad():
        assert not torch.allclose(ours(ROWS), plain(ROWS), atol=1e-4)
        torch.testing.assert_close(ours.logits(ours(ROWS)), theirs(ROWS).logits, atol=1e-5, rtol=1e-5)


def test_the_tokenizer_travels_with_the_model(tokenizer: Path, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path, tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    rendered = theirs.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<s><|user|>hi<|end|><|assistant|>"
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
    ids = special_tokens(tmp_path)
    assert (ids.pad, ids.bos, ids.eos, ids.stops) == (0, 2, 3, (3, 7))
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [3, 7]


def test_the_same_weights_give_the_same_bytes(tokenizer: Path, tmp_path: Path) -> None:
    names = [save_model(tiny_model(), tmp_path / name, tokenizer) for name in ("one", "two")]
    assert names[0] == names[1]
    for name in names[0]:
        assert sha256_file(tmp_path / "one" / name) == sha256_file(tmp_path / "two" / name)


@pytest.mark.parametrize("tied", [True, False])
def test_reward_models_are_sequence_classifiers(tied: bool, tokenizer: Path, tmp_path: Path) -> None:
    model, score = tiny_model(tie_embeddings=tied), torch.randn(1, 32)
    save_model(model, tmp_path, tokenizer, score=score)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    body, loaded = load_reward_model(tmp_path)
    with torch.no_grad():
        ours = (body(ROWS)[:, -1] @ loaded.t()).squeeze(-1)
        torch.testing.assert_close(ours, theirs(ROWS).logits.squeeze(-1), atol=1e-5, rtol=1e-5)
    if not tied:  # what it wrote by its input embeddings would be no text
        for read in (load_model, open_weights):
            with pytest.raises(InputError, match="this is a reward model"):
                read(tmp_path)


def test_bf16_on_disk(tokenizer: Path, tmp_path: Path) -> None:
    save_model(tiny_model().bfloat16(), tmp_path, tokenizer)
    assert load_model(tmp_path).output_weight.dtype == torch.bfloat16
    assert load_model(tmp_path, dtype=torch.float32).output_weight.dtype == torch.float32


def test_damaged_folders_are_explained(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path / "nowhere")
    save_model(tiny_model(), tmp_path, tokenizer)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [
        ({"num_hidden_layers": 3}, "missing"),
        ({"hidden_size": 64, "head_dim": 8}, "shape"),
        ({"model_type": "gpt2"}, "model type"),
        ({"attention_bias": True}, "biases"),
        ({"num_key_value_heads": 3}, r"cannot be used: heads 4 is not a multiple of kv_heads 3 \("),
        ({"num_hidden_layers": None}, "has no 'num_hidden_layers'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "has no 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor = 0: Input should be greater than"),
        ({"rope_scaling": "yarn"}, "must be objects"),
        ({"rope_scaling": [1]}, "must be objects"),
        ({"max_position_embeddings": "long"}, "cannot be used"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_config(tmp_path)


def test_weights_outside_the_folder_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model", tokenizer)
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside the folder"):
        load_model(tmp_path / "model")
