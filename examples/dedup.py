"""Deduplicate a dataset: ``python dedup.py documents.jsonl unique.parquet``."""

import sys

import datasets

import headwater

data = datasets.Dataset.from_json(sys.argv[1])
result = headwater.dedup(data)
result.kept.to_parquet(sys.argv[2])
print(f"{len(data)} rows, {len(result.kept)} stay")
print(result.dropped.to_pandas().head())
