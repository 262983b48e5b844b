"""``headwater bench align``: losses and gradients of alignment against TRL's, and the speed of sampling and updating.

* **Equality.** Both get the same model, the same tokens and the same reference log-probabilities, in float32 on one thread; TRL
  in an environment of its own, by its own trainers. ``max_loss_difference`` and ``max_gradient_difference`` are the largest
  relative differences over all cases (of a gradient: the norm of the difference of all weights over the norm).
* **Speed.** Both sample groups of replies and make updates of equal tokens in turns, one at a time and in changing order;
  ``ratio_trl_rollouts`` and ``ratio_trl_updates`` are ours over theirs, the median over turns.
* **Learning.** The recipe ``arithmetic`` with ``seeds`` seeds: held-out sums that the model answers before GRPO and after it, and
  seconds of the stage; ``grpo_before``, ``grpo_after`` and ``grpo_seconds`` are the least favourable seed's. 0: not run.

TRL's conventions are met by the batches: its ORPO counts the prompt in the chosen reply's own loss and weighs by tokens, so
prompts are one token there and chosen replies equally long; label smoothing is known to its trainer without a reference only
(CPO's), so that the reference gives 0 there.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.benchmarks.align_parts import arithmetic, ours
from tests.benchmarks.dedup_parts import peers
from tests.benchmarks.page import table, write_section
from tests.support import REPOSITORY
from tests.training.folders import tiny_config, write_tokenizer
from training.hub_format import save_model
from training.model import ModelConfig, build_model

PEER = Path(__file__).parent / "align_parts" / "peer_trl.py"
END = 7
VOCABULARY = 264
Case = dict[str, Any]


def run(turns: int = 5, updates: int = 3, threads: int = 0, seeds: int = 3, skip_speed: bool = False) -> dict[str, Any]:
    """``turns`` that count of each contender; ``updates`` in a turn; ``threads`` 0: every core; ``seeds`` of what is learnt."""
    with tempfile.TemporaryDirectory(prefix="bench-align-") as name:
        folder = Path(name)
        rows = _equality(folder)
        figures = {
            f"max_{figure}_difference": max(row[f"{figure}_difference"] for row in rows)
            for figure in ("loss", "gradient")
        }
        learnt = arithmetic.learned(folder / "workspace", seeds)
        if learnt:
            figures |= arithmetic.figures_of(learnt)
        timed: list[dict[str, Any]] = []
        if not skip_speed:
            timed = _speed(folder, turns, updates, threads or os.cpu_count() or 1)
            figures |= _ratios(timed)
            tables = [
                table(("case", "loss", "loss_difference", "gradient_difference"), rows),
                table(("case", "before", "after", "seconds"), learnt),
            ]
            tables.append(
                table(("figure", "value"), [{"figure": key, "value": f"{figures[key]:.3g}"} for key in figures])
            )
            write_section("align", "headwater bench align", tables)
    return {"figures": figures, "rows": rows + learnt + timed}


# ---- equality ---------------------------------------------------------------------------------------------------------


def _equality(folder: Path) -> list[dict[str, Any]]:
    tokenizer = write_tokenizer(folder / "tokenizer")
    torch.manual_seed(3)
    reference = build_model(tiny_config(), 1)
    save_model(reference, folder / "reference", tokenizer)
    save_model(build_model(tiny_config(), 0), folder / "model", tokenizer)
    save_model(build_model(tiny_config(), 2), folder / "reward", tokenizer, score=torch.randn(1, 32))
    cases = make_cases(folder)
    (folder / "cases.json").write_text(json.dumps(cases))
    mine = _last_line([sys.executable, "-m", "tests.benchmarks.align_parts.ours", "losses", str(folder)])
    theirs = _last_line([peers.trl_python(), str(PEER), "losses", str(folder)])
    rows = []
    for name in cases:
        gradient = _relative(
            load_file(folder / f"ours-{name}.safetensors"), load_file(folder / f"trl-{name}.safetensors")
        )
        difference = abs(mine[name] - theirs[name]) / max(abs(theirs[name]), 1e-3)
        rows.append({"case": name, "loss": mine[name], "loss_difference": difference, "gradient_difference": gradient})
    return rows


def make_cases(folder: Path) -> dict[str, Case]:
    """By name: the kind, its rows of tokens, our settings and TRL's."""
    chosen = random.Random(0)

    def ids(number: int) -> list[int]:
        return [chosen.randrange(8, VOCABULARY) for _ in range(number)]

    def rows(prompts: Sequence[int], replies: Sequence[tuple[int, int]]) -> list[dict[str, list[int]]]:
        return [
            {"prompt": [2, *ids(prompt)], "chosen": [*ids(first), END], "rejected": [*ids(second), END]}
            for prompt, (first, second) in zip(prompts, replies, strict=True)
        ]

    pairs = rows((3, 7, 4, 12), ((5, 8), (11, 2), (6, 6), (3, 9)))
    even = rows((0, 0, 0, 0), ((6, 8), (6, 2), (6, 6), (6, 9)))
    cases: dict[str, Case] = {
        "sft": {"kind": "sft", "rows": pairs, "trl": {}},
        "reward": {"kind": "reward", "rows": pairs, "trl": {}},
        "kto": {"kind": "kto", "liked": [True, False, False, True], "settings": {"undesirable_weight": 1.5},
                "trl": {"undesirable_weight": 1.5}},
    }  # fmt: skip
    for name, own, trl in (
        ("sigmoid", {}, {}),
        ("conservative", {"label_smoothing": 0.1}, {"loss_type": "sigmoid", "label_smoothing": 0.1, "cpo_alpha": 0.0}),
        ("robust", {"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1}),
        ("hinge", {"loss": "hinge"}, {"loss_type": ["hinge"]}),
        ("ipo", {"loss": "ipo"}, {"loss_type": ["ipo"]}),
        ("simpo", {"loss": "simpo", "beta": 2.0, "margin": 0.5},
         {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0}),
        ("orpo", {"loss": "orpo", "chosen_loss": 1.0}, {"beta": 0.1}),
    ):  # fmt: skip
        cases[name] = {"kind": "preference", "settings": own, "trl": trl}
    for name, own, trl in (
        ("grpo", {"loss": "grpo", "kl_coefficient": 0.04, "unbiased_kl": False},
         {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False}),
        ("grpo_unbiased_kl", {"loss": "grpo", "kl_coefficient": 0.04}, {"loss_type": "grpo", "beta": 0.04}),
        ("dr_grpo", {"loss": "dr_grpo"}, {"loss_type": "dr_grpo", "beta": 0.0}),
        ("dapo", {"loss": "dapo"}, {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28}),
        ("gspo", {"loss": "gspo", "clip_low": 0.05, "clip_high": 0.06},
         {"loss_type": "grpo", "beta": 0.0, "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.06}),
    ):  # fmt: skip
        # Updated twice, so that old log-probabilities are kept and compared with.
        cases[name] = {"kind": "group", "settings": own | {"update_epochs": 2}, "trl": trl, "longest": 16}
    for name, case in cases.items():
        case["rows"] = even if name == "orpo" else pairs
    _references(folder, cases, chosen)
    return cases


def _references(folder: Path, cases: dict[str, Case], chosen: random.Random) -> None:
    for name, case in cases.items():
        if case["kind"] in ("preference", "kto"):
            case["known"] = ours.known(folder / "reference", case["rows"])
        if name == "conservative":
            case["known"] = [[0.0, 0.0]] * len(case["rows"])
        if case["kind"] == "group":
            logs = _token_logs(folder / "model", case["rows"])
            case["old"] = [[value + chosen.uniform(-0.3, 0.3) for value in row] for row in logs]
            case["reference"] = [[value + chosen.uniform(-0.3, 0.3) for value in row] for row in logs]
            case["advantages"] = [1.0, -0.5, 0.3, -0.8]


def _token_logs(folder: Path, rows: list[dict[str, list[int]]]) -> list[list[float]]:
    batch = ours.collate([row["prompt"] for row in rows], [row["chosen"] for row in rows], 0)
    with torch.no_grad():
        found = ours.reply_log_probs(ours.load_model(folder), batch)
    return [found[row][batch.mask[row]].tolist() for row in range(len(rows))]


def _relative(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm, of all weights together; each has the other's names."""
    if missing := mine.keys() ^ theirs.keys():
        raise ValueError(f"gradients of {', '.join(sorted(missing))} are known to one side only")
    difference = sum(float((mine[name] - theirs[name]).double().square().sum()) for name in mine)
    return float((difference / sum(float(theirs[name].double().square().sum()) for name in mine)) ** 0.5)


# ---- speed ------------------------------------------------------------------------------------------------------------


def _speed(folder: Path, turns: int, updates: int, threads: int) -> list[dict[str, Any]]:
    """The demo's model, eight groups of eight replies. Of untrained models some 200 tokens end a reply, so that lengths are as
    various as a chat model's: 20 tokens in the mean, 64 at most. Updates are on replies of 64 tokens."""
    shape = ModelConfig(vocab_size=4096, max_position=512)
    save_model(build_model(shape, 0), folder / "model", folder / "tokenizer")
    chosen = random.Random(1)
    prompts = [[2, *(chosen.randrange(8, 4096) for _ in range(chosen.randint(8, 40)))] for _ in range(8)]
    replies = [[chosen.randrange(8, 4096) for _ in range(64)] for _ in range(64)]
    plan = {
        "prompts": prompts, "replies": replies, "group": 8, "longest": 64, "updates": updates, "threads": threads,
        "stops": list(range(END, END + 205)),
    }  # fmt: skip
    (folder / "speed.json").write_text(json.dumps(plan))
    contenders = {
        "ours": [sys.executable, "-m", "tests.benchmarks.align_parts.ours", "speed", str(folder)],
        "trl": [peers.trl_python(), str(PEER), "speed", str(folder)],
    }
    running = {
        name: subprocess.Popen(
            command, cwd=REPOSITORY, env=_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for name, command in contenders.items()
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    try:
        for turn in range(1 + turns):
            for name in list(running) if turn % 2 else list(reversed(running)):
                taken = _turn(running[name])
                if turn:  # the first one warms up
                    row = {"contender": name, "turn": turn, "updates_per_s": updates / taken["update_s"]}
                    speed = len(replies) / taken["sample_s"]
                    rows.append(row | {"rollouts_per_s": speed, "mean_tokens": taken["tokens"] / len(replies)})
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return rows


def _turn(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("TURN "):
            found: dict[str, Any] = json.loads(line.removeprefix("TURN "))
            return found
    raise RuntimeError(f"a contender ended with exit code {process.wait()}")


def _ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    figures = {}
    for what in ("rollouts", "updates"):
        speeds = {(row["contender"], row["turn"]): row[f"{what}_per_s"] for row in rows}
        figures[f"{what}_per_s"] = statistics.median(value for (name, _), value in speeds.items() if name == "ours")
        ratios = [value / speeds["trl", turn] for (name, turn), value in speeds.items() if name == "ours"]
        figures[f"ratio_trl_{what}"] = statistics.median(ratios)
    return figures


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _last_line(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=_environment())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with exit code {done.returncode}: {done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
