"""A model small enough to train inside a test, and a tokenizer of one id a letter."""

import torch

from training.model import Decoder, ModelConfig, build_model

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
LETTERS = "abcdefghijklmnopqrstuvwxyz .?!'"


class LetterTokenizer:
    """Specials first, then letters."""

    pad_id, unk_id, bos_id, eos_id = 0, 1, 2, 3
    vocab_size = len(SPECIALS) + len(LETTERS)

    def encode(self, text: str) -> list[int]:
        return [len(SPECIALS) + LETTERS.index(letter) if letter in LETTERS else self.unk_id for letter in text.lower()]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return "".join(LETTERS[i - len(SPECIALS)] for i in ids if i >= len(SPECIALS))

    def control_name(self, token: int) -> str:
        return SPECIALS[token] if token < len(SPECIALS) else ""

    def token_id(self, name: str) -> int:
        return SPECIALS.index(name)


def tiny_decoder(seed: int = 0, vocab_size: int = LetterTokenizer.vocab_size, tie: bool = True) -> Decoder:
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        intermediate_size=64,
        max_position=256,
        tie_embeddings=tie,
        init_std=0.1,
    )
    return build_model(config, seed, dtype=torch.float32)
