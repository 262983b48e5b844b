"""The same vocabulary for Hugging Face: ``tokenizer.json`` with identical ids, and the files around it.

Loading ``tokenizer.model`` through transformers gives other ids (its Llama class puts a space before the text), so the
BPE is rebuilt here: SentencePiece always joins the pair whose joint piece has the best score, whichever way the piece
splits, so every split of a piece into two pieces becomes a merge, in the order of the scores.

Two differences remain, both of Hugging Face's making. Text that spells a special token becomes that token, unless
``encode_special_tokens`` is set; and a literal U+2581 is read as a space.
"""

import json
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as HubTokenizer

from pipeline.tokenizer.chat_template import CHAT_TEMPLATE
from pipeline.tokenizer.model import ASSISTANT, BOS, END, EOS, PAD, SPACE, SPECIALS, SYSTEM, UNK, USER, Tokenizer


def hub_tokenizer(tokenizer: Tokenizer) -> HubTokenizer:
    """A Hugging Face tokenizer with the same ids. As Llama's, it puts ``<s>`` before a text unless told not to."""
    pieces = tokenizer.pieces()
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    model = models.BPE(vocab=vocabulary, merges=_merges(tokenizer), unk_token=UNK, byte_fallback=True, fuse_unk=False)
    hub = HubTokenizer(model)
    hub.normalizer = normalizers.Replace(" ", SPACE)
    hub.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    hub.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.bos_id)]
    )
    hub.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return hub


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    pieces = tokenizer.pieces()
    normal = {
        piece: score
        for index, (piece, score) in enumerate(pieces)
        if index >= len(SPECIALS) and not tokenizer.is_byte(index)
    }
    merges: list[tuple[str, str]] = []
    for piece in sorted(normal, key=lambda piece: -normal[piece]):
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [(left, right) for left, right in splits if left in normal and right in normal]
    return merges


def hub_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Every file that ``AutoTokenizer.from_pretrained`` reads, by name."""
    named = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": PAD}
    more = [SYSTEM, USER, ASSISTANT, END]
    config = {
        **named,
        "additional_special_tokens": more,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # The plain fast class reads tokenizer.json as it is; the Llama classes rebuild it with another normaliser.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {
        "tokenizer.json": hub_tokenizer(tokenizer).to_str(pretty=False).encode(),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json({**named, "additional_special_tokens": more}),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
