"""A stage that takes nearly all of a source says so, though the sum over all sources looks well."""

import json
import random
from pathlib import Path

from typer.testing import CliRunner

from flows.cli.main import build_app

WORDS = [
    f"{first}{last}"
    for first in ("river", "field", "mill", "stone", "bridge")
    for last in ("bank", "man", "work", "side")
]


def write(path: Path, rows: int, template: str, seed: int) -> None:
    words = random.Random(seed)
    texts = (f"{template} {' '.join(words.choices(WORDS, k=40 if not template else 6))} {row}" for row in range(rows))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_near_duplicates_by_a_shared_template_are_told_and_nothing_else(tmp_path: Path) -> None:
    prompt = " ".join(random.Random(7).choices(WORDS, k=120))
    write(tmp_path / "calls.jsonl", 150, prompt, 1)
    write(tmp_path / "books.jsonl", 150, "", 2)
    sources = [
        {"name": name, "kind": "jsonl", "address": str(tmp_path / f"{name}.jsonl"), "profile": "none"}
        for name in ("calls", "books")
    ]
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"recipe: small\nexecution: {{workers: 1}}\nstages:\n  ingest: {{sources: {json.dumps(sources)}}}\n  dedup: {{}}\n"
    )
    command = ["run", str(recipe), "--no-prefect", "--workspace", str(tmp_path / "ws")]
    for _ in range(2):  # the second time from the manifests
        told = CliRunner().invoke(build_app(command), command).output
        warned = [line for line in told.splitlines() if line.startswith("warning:")]
        assert len(warned) == 1 and "keeps 1 of the 150 documents of calls" in " ".join(told.split())
        assert "--stage dedup --source calls --fate dropped" in " ".join(told.split())
