"""Peaks are found by device name, FLOPs agree with a count by hand, and a log survives being cut."""

import json

import pytest

from training.metrics import MetricsLog, flops_per_token, peak_flops
from training.model import ModelConfig


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Some CPU", None),
    ],
)
def test_peak_by_name(name, peak):
    assert peak_flops(name) == peak


def test_flops_of_a_small_decoder():
    config = ModelConfig(
        vocab_size=10, hidden_size=8, layers=1, heads=2, kv_heads=2, intermediate_size=16, tie_embeddings=False
    )
    matrices = 4 * 8 * 8 + 3 * 8 * 16 + 10 * 8  # attention, feed-forward, output; the embedding is a look-up
    norms = 3 * 8
    assert flops_per_token(config, seq_len=4) == 6 * (matrices + norms) + 12 * 8 * 4


def test_a_resumed_log_has_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, tensorboard=None, wandb_project="", run="r")
    for step in range(1, 6):
        log.write(step, {"loss": float(step), "held": "why", "mfu": None})
    log.close()
    with path.open("a") as stream:
        stream.write('{"step": 6, "lo')
    log = MetricsLog(path, tensorboard=None, wandb_project="", run="r")
    log.rewind(3)
    log.write(4, {"loss": 40.0})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
