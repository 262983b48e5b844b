"""Peaks are found by device name, FLOPs agree with a count by hand, and a log survives being cut."""

import json
import os
import struct
import sys

import pytest

from infra.errors import ConfigError
from training.metrics import MetricsLog, flops_per_token, peak_flops, require_wandb
from training.model import ModelConfig
from training.tensorboard import EventWriter


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
    log = MetricsLog(path, 0, tensorboard=tmp_path / "board", wandb_project="", wandb_folder=tmp_path, run="r")
    for step in range(1, 6):
        log.write(step, {"loss": float(step), "held": "why", "mfu": None})
    log.close()
    with path.open("a") as stream:
        stream.write('{"step": 6, "lo')
    log = MetricsLog(path, 3, tensorboard=tmp_path / "board", wandb_project="", wandb_folder=tmp_path, run="r")
    log.write(4, {"loss": 40.0})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_log_that_goes_back_has_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0, tensorboard=tmp_path / "board", wandb_project="", wandb_folder=tmp_path, run="r")
    for step in range(1, 6):
        log.write(step, {"loss": float(step)})
    log.go_back(3)
    log.write(4, {"loss": 40.0})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    (board,) = (tmp_path / "board").iterdir()
    starts = [event for event in records(board.read_bytes()) if b"\x3a\x02\x08\x01" in event]
    assert len(starts) == 2 and b"\x10\x04" in starts[1]  # at the beginning, and from step 4 on


def test_event_files_hold_what_tensorboard_reads(tmp_path):
    writer = EventWriter(tmp_path, 0)
    writer.add(300, {"loss": 2.5, "bits_per_byte/web": 1.25})
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, _, event = list(records(path.read_bytes()))
    assert version.endswith(b"brain.Event:2")
    # step 300 as a varint, then a summary with two values: tag, then a float
    assert b"\x10\xac\x02" in event
    assert b"\x0a\x04loss\x15" + struct.pack("<f", 2.5) in event
    assert b"\x0a\x11bits_per_byte/web\x15" + struct.pack("<f", 1.25) in event


def records(content):
    """The records of a file, their checksums verified against a CRC-32C written bit by bit."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert content[8:12] == masked(content[:8])
        data = content[12 : 12 + length]
        assert content[12 + length : 16 + length] == masked(data)
        yield data
        content = content[16 + length :]


def masked(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_the_checksum_of_the_test_is_the_standard_one():
    assert masked(b"123456789") == struct.pack(
        "<I", (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    )


def test_a_missing_package_is_said_before_anything_is_built(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()  # what its runs leave behind is no package
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    require_wandb("")
    with pytest.raises(ConfigError, match="not installed"):
        require_wandb("project")


class FakeWandb:
    """Records what it is told; refuses where there is neither a key nor offline mode, as the package does."""

    class Error(Exception):
        pass

    def __init__(self):
        self.given, self.figures, self.done = None, [], False

    def Settings(self, **settings):  # noqa: N802 (the package's name)
        return settings

    def init(self, **given):
        if "WANDB_API_KEY" not in os.environ:
            raise self.Error("No API key configured.")
        self.given = given
        return self

    def log(self, figures, step):
        self.figures.append((step, figures))

    def finish(self):
        self.done = True


def test_weights_and_biases_gets_the_numbers_and_never_the_key(monkeypatch, tmp_path):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    places = {"tensorboard": tmp_path / "board", "wandb_folder": tmp_path / "work", "run": "pretrain-1"}
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, wandb_project="p", **places)
    log.write(1, {"loss": 2.0, "held": "a reason"})
    log.close()
    assert fake.figures == [(1, {"loss": 2.0})] and fake.done
    assert fake.given["id"] == "pretrain-1" and fake.given["dir"] == str(tmp_path / "work")
    assert "secret-key" not in repr(fake.given)
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ConfigError, match="No API key configured"):
        MetricsLog(tmp_path / "metrics.jsonl", 0, wandb_project="p", **places)
