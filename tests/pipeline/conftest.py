"""One small tokenizer for all tests of this folder: training it takes a second."""

import pytest

from infra.store.dataset import Dataset
from pipeline.tokenizer import STAGE, Tokenizer, TokenizerConfig
from tests.pipeline.corpus import corpus_documents, publish_documents
from tests.support import run_shard_stage


@pytest.fixture(scope="session")
def tokenizer_dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("tokenizer")
    documents = publish_documents(folder / "documents", corpus_documents({"web": 200, "code": 50}))
    return run_shard_stage(STAGE, TokenizerConfig(vocab_size=700), {"redact": documents}, folder / "run")


@pytest.fixture(scope="session")
def tokenizer_dir(tokenizer_dataset):
    return tokenizer_dataset.local("data")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)
