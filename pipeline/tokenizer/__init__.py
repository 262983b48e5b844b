"""The vocabulary: trained on a sample of the corpus, the same ids here and in Hugging Face's ``tokenizer.json``."""

from pipeline.tokenizer.model import SPECIALS, Tokenizer
from pipeline.tokenizer.stage import STAGE, TokenizerConfig

__all__ = ["SPECIALS", "STAGE", "Tokenizer", "TokenizerConfig"]
