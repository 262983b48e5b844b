"""Token shards: documents become rows of ids that training maps into memory, each token with its origin."""

from pipeline.shards.mixing import SourceWeight
from pipeline.shards.reader import Lineage, RowBatch, ShardSet
from pipeline.shards.stage import STAGE, ShardsConfig

__all__ = ["STAGE", "Lineage", "RowBatch", "ShardSet", "ShardsConfig", "SourceWeight"]
