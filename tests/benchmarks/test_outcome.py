"""The outcome's arms and figures."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.ablate.lab import load_lab
from infra.errors import InputError
from tests.benchmarks import outcome
from tests.benchmarks.outcome import FILES, figures_of, write_lab


def test_figures_are_ours_less_theirs() -> None:
    def verdict(arm: str, delta: float) -> dict[str, object]:
        return {"arm": arm, "delta": delta, "low": delta - 0.01, "high": delta + 0.02}

    view = {"verdicts": [verdict("fineweb", 0.03), verdict("unfiltered", 0.005), verdict("aa", 0.001)], "mde": 0.002}
    assert figures_of(view) == pytest.approx(
        {
            "bpb_delta_fineweb": -0.03, "bpb_delta_fineweb_low": -0.05, "bpb_delta_fineweb_high": -0.02,
            "bpb_delta_unfiltered": -0.005, "bpb_delta_unfiltered_low": -0.025, "bpb_delta_unfiltered_high": 0.005,
            "bpb_aa": 0.001, "bpb_aa_low": -0.009, "bpb_aa_high": 0.021, "mde": 0.002,
        }
    )  # fmt: skip


def test_arms_differ_in_their_filtering_alone(tmp_path: Path) -> None:
    (tmp_path / "fineweb.parquet").touch()
    books = tmp_path / "library.jsonl"
    books.write_text(json.dumps({"text": "A book. " * 4000}) + "\n")
    path = write_lab(tmp_path, tmp_path / "warc", tmp_path / "fineweb.parquet", books, seeds=2, tokens=1000, width=64)
    lab = load_lab(str(path))
    assert set(lab.trained) == {"ours", "fineweb", "unfiltered", "control", "aa"}
    assert (lab.baseline, lab.control) == ("ours", "control")
    stages = {arm: {node.name for node in recipe.nodes} for arm, recipe in lab.recipes.items()}
    assert stages["ours"] - stages["unfiltered"] == {"dedup"}
    assert stages["ours"] - stages["control"] == {"attributes", "quality", "dedup"}
    assert stages["fineweb"] == stages["control"]
    every = [recipe.node(stage).config for stage in ("decontaminate", "shards") for recipe in lab.recipes.values()]
    assert len({config.model_dump_json() for config in every}) == 2, "evaluation texts go and rows are made alike"
    assert lab.config.measured[-1].name == "books"
    (passage,) = map(json.loads, Path(lab.config.measured[-1].file).read_text().splitlines())
    assert len(passage["text"]) == 6000


def test_a_run_at_full_size_writes_its_section_and_a_smaller_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = [
        {"arm": arm, "delta": 0.1, "low": 0.0, "high": 0.2} for arm in ("fineweb", "unfiltered", "control", "aa")
    ]
    effects = [{"arm": "fineweb", "task": "all", "delta": 0.1, "low": 0.0, "high": 0.2, "items": 3, "seeds": 3}]
    arms = [
        {"arm": "ours", "tokens": 1000, "documents": 3, "unique_tokens": 900, "passes": 1.1, "bytes_per_token": 4.0}
    ]
    view = {"arms": arms, "effects": effects, "verdicts": verdicts, "coin_flips": ["gsm8k"], "mde": 0.01}
    written: list[str] = []
    monkeypatch.setattr(outcome, "_fineweb", lambda pages, folder: folder / "fineweb.parquet")
    monkeypatch.setattr(outcome, "run_lab", lambda lab, store, quiet: SimpleNamespace(as_dict=lambda: view))
    monkeypatch.setattr(
        outcome, "write_section", lambda name, command, tables: written.extend([name, command, *tables])
    )
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.warc.gz").write_bytes(b"")
    small = outcome.run(input=str(tmp_path / "in"), books="", tokens=1000)
    assert written == []
    full = outcome.run(input=str(tmp_path / "in"), books="")
    assert small["figures"].keys() == full["figures"].keys()
    assert full["figures"]["bpb_delta_fineweb_low"] == -0.2
    assert written[:2] == ["outcome", "headwater bench outcome"]
    assert "| fineweb | all | 0.1 | +0.0000 to +0.2000 | 3 |" in "\n".join(written)


def test_pages_are_the_folder_s_or_cut_for_several_workers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*.warc.gz"):
        outcome.archives_of(str(tmp_path), tmp_path)
    record = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 4\r\n\r\nabcd\r\n\r\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.warc.gz").write_bytes(b"".join(gzip.compress(record) for _ in range(40)))
    cut = outcome.archives_of(str(tmp_path / "in"), tmp_path / "out")
    assert len(list(cut.glob("*.warc.gz"))) == FILES
    (tmp_path / "in" / "b.warc.gz").write_bytes(gzip.compress(record))
    assert outcome.archives_of(str(tmp_path / "in"), tmp_path / "other") == tmp_path / "in"
