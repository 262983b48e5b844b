"""Model folders in Hugging Face's format, both ways.

    config.json  generation_config.json  model.safetensors  tokenizer files  chat_template.jinja

A decoder is written as ``LlamaForCausalLM`` (``Qwen3ForCausalLM`` with QK-norm, ``Qwen2ForCausalLM`` with biases, the
same architecture otherwise) and opens in ``transformers``, vLLM or llama.cpp's converter as it is. The same bytes come
out for the same weights. A reward model is the same folder with one more tensor, ``score.weight``, as
``LlamaForSequenceClassification``.

Reading accepts folders from elsewhere: Llama, Mistral, Qwen2 and Qwen3, sharded safetensors, old and new spellings of the
rotary settings. What the decoder would compute otherwise than the model's own code is refused. Attention over a sliding
window equals full attention as long as a text fits the window, so the window becomes the longest context. Only
safetensors are read; a pickle from outside could run code.
"""

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from infra.errors import InputError
from infra.store.files import write_bytes
from training.chat_template import CHAT_TEMPLATE, chat_template
from training.hub_tokenizer import SpecialTokens, read_object, special_tokens
from training.model import Decoder, ModelConfig
from training.rope import RopeScaling
from training.weights import Weights, write_safetensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
SCORE = "score.weight"
BODY = "model."
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""By their names in configurations."""
ARCHITECTURES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
"""What a ``config.json`` means that leaves these out, where it is not what the other settings say."""
ROPE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position"),
    "yarn": ("factor", "beta_fast", "beta_slow", "truncate", "original_max_position"),
}
"""What each kind of scaling is described by."""
ROPE_NAMES = {"original_max_position": "original_max_position_embeddings"}
"""Hugging Face's words, where they are others."""


def save_model(decoder: Decoder, folder: Path, tokenizer_dir: Path, *, score: Tensor | None = None) -> list[str]:
    """As ``write_model``, of a decoder."""
    return write_model(Weights.of(decoder), folder, tokenizer_dir, score=score)


def write_model(weights: Weights, folder: Path, tokenizer_dir: Path, *, score: Tensor | None = None) -> list[str]:
    """Write a complete model folder, one weight at a time; returns the names of its files, sorted.

    ``tokenizer_dir`` holds the tokenizer's files (a tokenizer dataset's ``data`` or another model folder); they are
    copied, with the chat template if there is one. ``score [1, hidden]`` makes it a reward model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_hub_name(name): (shape, weights.dtype) for name, shape in weights.shapes().items()}
    if score is not None:
        # A classifier has no output matrix of its own.
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(BODY)}
        tensors[SCORE] = score.shape, weights.dtype
    _copy_tokenizer(tokenizer_dir, folder)
    # Of the source: it may be a model folder whose generation_config.json names the ends of a reply.
    tokens = special_tokens(tokenizer_dir)
    _write_json(folder / "config.json", hub_config(weights.config, tokens, weights.dtype, reward=score is not None))
    if score is None:
        _write_json(folder / "generation_config.json", _generation_config(tokens))

    def read(name: str) -> Tensor:
        return score.detach() if score is not None and name == SCORE else weights.read(name.removeprefix(BODY))

    # Written beside and renamed: a reader never sees half a file.
    beside = folder / ".model.safetensors.tmp"
    write_safetensors(beside, tensors, read)
    beside.replace(folder / "model.safetensors")
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def open_weights(folder: Path, dtype: torch.dtype | None = None) -> Weights:
    """The weights of the decoder in a model folder, to be read one at a time. ``dtype`` None keeps the stored precision."""
    weights, rest = _weights(folder, dtype)
    _refuse_others(folder, rest)
    return weights


def open_reward_weights(folder: Path, dtype: torch.dtype | None = None) -> tuple[Weights, Tensor]:
    """The body's weights of a reward model folder, to be read one at a time, and its ``[1, hidden]`` score weight."""
    weights, rest = _weights(folder, dtype)
    return weights, _score(folder, rest).read().to(weights.dtype)


def _weights(folder: Path, dtype: torch.dtype | None) -> tuple[Weights, dict[str, "_Stored"]]:
    config, found, rest = _find(folder)
    kind = dtype or next(iter(found.values())).read().dtype
    return Weights(config, kind, lambda name: found[name].read().to(kind)), rest


def load_model(folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Decoder:
    """The decoder stored in a model folder. ``dtype`` None keeps the stored precision.

    A reward model's body without an output matrix is refused unless it is tied: use ``load_reward_model``.
    """
    decoder, rest = _load(folder, dtype, device)
    _refuse_others(folder, rest)
    return decoder


def _refuse_others(folder: Path, rest: Mapping[str, Any]) -> None:
    if rest.keys() - {SCORE}:
        raise InputError(f"unexpected tensors: {', '.join(sorted(rest)[:3])}", where=str(folder))
    if SCORE in rest and not load_config(folder).tie_embeddings:
        raise InputError(
            "this is a reward model: it scores texts, and has no output matrix to write any with",
            where=str(folder),
            remedy="Give a model that writes text.",
        )


def load_reward_model(
    folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[Decoder, Tensor]:
    """The body and the ``[1, hidden]`` score weight of a reward model folder."""
    decoder, rest = _load(folder, dtype, device)
    return decoder, _score(folder, rest)


def _score(folder: Path, rest: Mapping[str, Any]) -> Any:
    if SCORE not in rest:
        raise InputError("there is no score.weight: this is not a reward model", where=str(folder))
    return rest[SCORE]


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder."""
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise InputError("this is an adapter, not a model", where=str(folder), remedy="Merge it with its model first.")
    raw = read_object(folder / "config.json")
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"the model type is {kind!r}; this reads {', '.join(ARCHITECTURES)}", where=str(folder / "config.json")
        )
    raw = {**DEFAULTS.get(kind, {}), **{name: value for name, value in raw.items() if value is not None}}
    try:
        if reason := _unsupported(raw):
            raise InputError(f"{reason} not supported", where=str(folder / "config.json"))
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw.get("num_key_value_heads", raw["num_attention_heads"]),
            head_dim=raw.get("head_dim"),
            intermediate_size=raw["intermediate_size"],
            max_position=min(raw["max_position_embeddings"], _window(raw)),
            rope_theta=_rope_settings(raw).get("rope_theta", 10000.0),
            rope_scaling=_rope_scaling(raw, folder),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            tie_embeddings=raw.get("tie_word_embeddings", False),
            qk_norm=kind == "qwen3",
            qkv_bias=kind == "qwen2",
            init_std=raw.get("initializer_range", 0.02),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"the model's configuration cannot be used: {_why(error)}",
            where=str(folder / "config.json"),
            remedy="Correct the file, or download the model again.",
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    field, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{field} = {first['input']!r}: {message}" if field else message


def _unsupported(raw: dict[str, Any]) -> str | None:
    """What of a configuration this decoder cannot compute, with its verb."""
    if raw.get("quantization_config"):
        return "quantised weights are"
    if raw.get("attention_bias") or raw.get("mlp_bias"):
        return "linear layers with biases (attention_bias, mlp_bias) are"
    if (activation := raw.get("hidden_act", "silu")) not in ("silu", "swish"):
        return f"the activation {activation!r} is"
    if raw.get("num_experts") or raw.get("num_local_experts"):
        return "mixtures of experts are"
    if _rope_settings(raw).get("partial_rotary_factor", 1.0) != 1.0 or raw.get("partial_rotary_factor", 1.0) != 1.0:
        return "rotary embedding of a part of each head is"
    return None


def _window(raw: dict[str, Any]) -> int:
    """How many tokens a token sees at least. Qwen names a window also where it does not use it."""
    used = raw.get("use_sliding_window", raw["model_type"] == "mistral")
    return int(raw.get("sliding_window") or raw["max_position_embeddings"]) if used else sys.maxsize


def hub_config(
    config: ModelConfig, tokens: SpecialTokens, dtype: torch.dtype, *, reward: bool = False
) -> dict[str, Any]:
    """``config.json``. The rotary settings are in both spellings, before and since transformers 5."""
    kind = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    rope = _rope(config.rope_scaling)
    fields: dict[str, Any] = {
        "architectures": [f"{ARCHITECTURES[kind]}For{'SequenceClassification' if reward else 'CausalLM'}"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.width_of_head,
        "max_position_embeddings": config.max_position,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling.kind == "none" else rope,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": config.init_std,
        "use_cache": True,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.pad,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if kind != "qwen2":
        fields["attention_bias"] = False
    if kind == "llama":
        fields |= {"mlp_bias": False, "pretraining_tp": 1}
    if reward:
        fields |= {
            "num_labels": 1,
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
            "problem_type": "regression",
        }
    return fields


def _rope(scaling: RopeScaling) -> dict[str, Any]:
    """``rope_scaling`` in Hugging Face's words."""
    if scaling.kind == "none":
        return {"rope_type": "default"}
    found = {"rope_type": scaling.kind} | {
        ROPE_NAMES.get(name, name): getattr(scaling, name) for name in ROPE_FIELDS[scaling.kind]
    }
    if scaling.kind == "yarn" and scaling.attention_factor:
        found["attention_factor"] = scaling.attention_factor
    return found


def _generation_config(tokens: SpecialTokens) -> dict[str, Any]:
    named = {"bos_token_id": tokens.bos, "eos_token_id": list(tokens.stops) or None, "pad_token_id": tokens.pad}
    return {name: value for name, value in named.items() if value is not None} | {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def _hub_name(name: str) -> str:
    return name if name.startswith("lm_head.") else BODY + name


@dataclass(frozen=True)
class _Stored:
    """A tensor in one of a folder's files."""

    file: Path
    name: str
    shape: list[int]

    def read(self) -> Tensor:
        with _opened(self.file) as stream:
            tensor: Tensor = stream.get_tensor(self.name)
        return tensor


def _load(folder: Path, dtype: torch.dtype | None, device: str | torch.device) -> tuple[Decoder, dict[str, Tensor]]:
    config, found, rest = _find(folder)
    tensors: dict[str, Tensor] = {}
    every = {**found, **rest}
    for file in {stored.file for stored in every.values()}:
        with _opened(file, str(device)) as stream:
            tensors |= {name: stream.get_tensor(stored.name) for name, stored in every.items() if stored.file == file}
    dtype = dtype or tensors[next(iter(found))].dtype
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.load_state_dict({name: tensors.pop(name).to(dtype) for name in found}, assign=True)
    for parameter in decoder.parameters():
        parameter.requires_grad_(True)
    return decoder, {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _find(folder: Path) -> tuple[ModelConfig, dict[str, _Stored], dict[str, _Stored]]:
    """The decoder's shape, where its weights lie by their names in it, and what else is there."""
    config, stored = load_config(folder), _stored_tensors(folder)
    if "embed_tokens.weight" in stored:
        # Saved without its head: the body alone, under the body's own names.
        stored = {name if name in (SCORE, "lm_head.weight") else BODY + name: each for name, each in stored.items()}
    if SCORE in stored and not config.tie_embeddings:
        config = config.model_copy(update={"tie_embeddings": True})
    if config.tie_embeddings:
        stored.pop("lm_head.weight", None)
    with torch.device("meta"):
        expected = {_hub_name(name): parameter for name, parameter in Decoder(config).state_dict().items()}
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        raise InputError(f"{len(missing)} tensors are missing, the first is {missing[0]}", where=str(folder))
    for name, parameter in expected.items():
        if stored[name].shape != list(parameter.shape):
            found, wanted = stored[name].shape, list(parameter.shape)
            raise InputError(f"{name} has shape {found}; the configuration says {wanted}", where=str(folder))
    return (
        config,
        {name.removeprefix(BODY): stored.pop(name) for name in expected},
        {name: each for name, each in stored.items() if "rotary_emb" not in name},
    )


def _stored_tensors(folder: Path) -> dict[str, _Stored]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_object(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    stored: dict[str, _Stored] = {}
    for name in names:
        if Path(name).name != name:
            raise InputError(f"a weight file lies outside the folder: {name}", where=str(index))
        if not (folder / name).exists():
            raise InputError(f"there is no {name}", where=str(folder), remedy="Give a model folder with safetensors.")
        with _opened(folder / name) as stream:
            for key in stream.keys():  # noqa: SIM118 (not a mapping)
                stored[key] = _Stored(folder / name, key, stream.get_slice(key).get_shape())
    return stored


@contextlib.contextmanager
def _opened(file: Path, device: str = "cpu") -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt", device=device) as stream:
            yield stream
    except SafetensorError as error:
        raise InputError(f"{file.name} is damaged: {error}", where=str(file.parent)) from error


def _rope_settings(raw: dict[str, Any]) -> dict[str, Any]:
    """Where both are written ``rope_scaling`` is what transformers follows: people add it to a file that has the other."""
    parameters = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or parameters
    if not (isinstance(parameters, Mapping) and isinstance(scaling, Mapping)):
        raise TypeError("rope_scaling and rope_parameters must be objects")
    settings = dict(scaling)
    for theta in (raw.get("rope_theta"), parameters.get("rope_theta")):
        if theta is not None:
            settings.setdefault("rope_theta", theta)
    return settings


def _rope_scaling(raw: dict[str, Any], folder: Path) -> RopeScaling:
    settings = _rope_settings(raw)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind in ("default", "dynamic"):
        # ``dynamic`` changes nothing up to max_position_embeddings, and the decoder goes no further.
        return RopeScaling()
    if kind == "yarn":
        return _yarn_scaling(raw, settings)
    if kind in ("linear", "llama3"):
        return RopeScaling(kind=kind, **{name: settings[ROPE_NAMES.get(name, name)] for name in ROPE_FIELDS[kind]})
    raise InputError(
        f"rotary scaling {kind!r} is not supported",
        where=str(folder / "config.json"),
        remedy="This reads default, linear, dynamic, llama3 and yarn.",
    )


def _yarn_scaling(raw: dict[str, Any], settings: dict[str, Any]) -> RopeScaling:
    original = settings.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    factor = settings.get("factor") or raw["max_position_embeddings"] / original
    attention = settings.get("attention_factor") or 0.0
    scales = [scale for name in ("mscale", "mscale_all_dim") if (scale := settings.get(name))]
    if not attention and len(scales) == 2:
        above, below = (0.1 * scale * math.log(factor) + 1.0 for scale in scales)
        attention = above / below
    return RopeScaling(
        kind="yarn",
        factor=factor,
        beta_fast=settings.get("beta_fast") or 32,
        beta_slow=settings.get("beta_slow") or 1,
        truncate=settings.get("truncate", True),
        attention_factor=attention,
        original_max_position=original,
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if not (source / "tokenizer.json").exists():
        raise InputError("there is no tokenizer.json", where=str(source), remedy="Run the tokenizer stage first.")
    if source.resolve() != folder.resolve():
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)
    if (text := chat_template(source)) is not None:
        write_bytes(folder / CHAT_TEMPLATE, text.encode())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
