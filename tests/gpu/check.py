"""The check of an accelerator: section after section within a limit of time, into one JSON file.

    python -m tests.gpu.check [--toy] [--out FILE] [--limit SECONDS] [--only NAME …]
    python -m tests.gpu.check --page FILE           the file as docs/benchmarks-gpu.md

A section is a process of its own, forked from one that has imported everything and touched no accelerator: one that fails
or outlasts its time costs itself, and what was not reached is said. The file is written anew after each section, so that
a kill leaves what was measured.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.page import table, write_section
from tests.gpu.sections import SECTIONS as MEASURES
from tests.gpu.sections import Setting
from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks-gpu.md"


@dataclass(frozen=True)
class Section:
    """``name`` in the file; ``measures`` is the function of ``tests.gpu.sections`` with its arguments."""

    name: str
    measures: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit_s: float = 60


def _train(name: str, case: str, contender: str = "ours", **changes: Any) -> Section:
    return Section(name, "train", {"case": case, "contender": contender, **changes})


SECTIONS = (
    Section("machine", "machine"),
    Section("inputs", "inputs"),
    Section("attention", "attention"),
    Section("loss", "loss"),
    _train("350M", "350M"),
    _train("1B", "1B"),
    _train("350M plain loop", "350M", "plain"),
    _train("350M Hugging Face Trainer", "350M", "trainer"),
    Section("profile 350M", "profile"),
    _train("125M", "125M"),
    Section("precision 125M", "precision"),
    Section("alignment 125M", "alignment"),
    Section("generation 350M", "generation"),
    _train("350M documents apart", "350M", mask_documents=True),
    Section("ZeRO 125M", "zero_stages"),
    _train("350M not compiled", "350M", compile=False),
    _train("350M checkpoint", "350M", checkpoint=True),
    _train("1B plain loop", "1B", "plain"),
)
"""In the order of their worth: time may run out."""


def run(out: Path, toy: bool, limit: float, only: Iterable[str] = ()) -> dict[str, Any]:
    """Measure, and write ``{figures, sections}`` to ``out`` after each section."""
    ends = time.monotonic() + limit
    sections: dict[str, Any] = {}
    report: dict[str, Any] = {"made": time.strftime("%Y-%m-%d %H:%M"), "toy": toy}
    with tempfile.TemporaryDirectory(prefix="headwater-gpu-") as folder:
        for section in SECTIONS:
            if only and section.name not in only:
                continue
            began = time.monotonic()
            room = ends - began
            sections[section.name] = (
                _measure(section, folder, toy, min(section.limit_s, room))
                if room > 5
                else {"not_reached": "out of time"}
            ) | {"seconds": round(time.monotonic() - began, 1)}
            print(f"{section.name}: {json.dumps(sections[section.name])[:300]}", flush=True)
            report |= {"figures": figures(sections), "sections": sections}
            beside = out.with_suffix(".tmp")
            beside.write_text(json.dumps(report, indent=1))
            beside.replace(out)
    return report


def _measure(section: Section, folder: str, toy: bool, limit: float) -> dict[str, Any]:
    log, answer = Path(folder) / "log.txt", Path(folder) / "answer.json"
    answer.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(section, Setting(folder, toy), log, answer), name=section.name
    )
    process.start()
    process.join(limit)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)  # with what it has started
        process.join()
        return {"not_reached": f"not done after {limit:.0f} s", "log": log.read_text(errors="replace")[-1500:]}
    if process.exitcode or not answer.exists():
        return {"error": f"exit code {process.exitcode}", "log": log.read_text(errors="replace")[-3000:]}
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _child(section: Section, setting: Setting, log: Path, answer: Path) -> None:
    os.setsid()
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        torch.manual_seed(0)
        answer.write_text(json.dumps(MEASURES[section.measures](setting, **section.arguments)))


def figures(sections: Mapping[str, Any]) -> dict[str, float]:
    """The numbers one looks for, of what was reached."""
    found: dict[str, Any] = {}
    for case in ("125M", "350M", "1B"):
        for name in ("mfu", "tokens_per_s", "peak_memory_gb"):
            found[f"{name}_{case.lower()}"] = sections.get(case, {}).get(name)
        for peer, label in (("plain loop", "plain_loop"), ("Hugging Face Trainer", "hf_trainer")):
            ours, theirs = (sections.get(key, {}).get("tokens_per_s") for key in (case, f"{case} {peer}"))
            found[f"ratio_{label}_{case.lower()}"] = ours / theirs if ours and theirs else None
    found["checkpoint_lost_s_350m"] = sections.get("350M checkpoint", {}).get("checkpoint_lost_s")
    found |= sections.get("alignment 125M", {}) | sections.get("generation 350M", {})
    return {name: value for name, value in found.items() if isinstance(value, float) and name != "seconds"}


def write_page(report: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put a report into the documentation."""
    sections = dict(report["sections"])
    rows = [
        {"what": name, **{key: value for key, value in found.items() if isinstance(value, (int, float))}}
        for name, found in sections.items()
        if "tokens_per_s" in found
    ]
    columns = ("what", "tokens_per_s", "mfu", "peak_memory_gb", "checkpoint_lost_s")
    others = {
        name: json.dumps({key: value for key, value in found.items() if key != "kernels"})
        for name, found in sections.items()
        if "tokens_per_s" not in found
    }
    kernels = sections.get("profile 350M", {}).get("kernels", [])[:15]
    device = sections.get("machine", {})
    write_section(
        str(device.get("device", "accelerator")),
        "tests/gpu/run.sh",
        [
            *report.get("notes", []),
            table(("figure", "value"), [{"figure": key, "value": value} for key, value in report["figures"].items()]),
            table(columns, rows),
            table(("kernel", "ms", "calls"), kernels),
            table(("section", "found"), [{"section": name, "found": text} for name, text in others.items()]),
        ],
        page,
        f"{report['made']}, PyTorch {device.get('torch')}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--limit", type=float, default=460)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    if asked.page:
        write_page(json.loads(asked.page.read_text()))
        return
    report = run(asked.out, asked.toy, asked.limit, asked.only)
    print(json.dumps(report["figures"], indent=1))
    sys.exit(any("error" in found for found in report["sections"].values()))


if __name__ == "__main__":
    main()
