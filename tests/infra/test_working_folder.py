"""What lies in the user's working folder and bears the name of one of our packages does not break a run."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support import REPOSITORY

RUN = """
import sys
from infra.stage import StageNode
from infra.runner import run_stage
from tests.infra.adding_job import ADD, AddConfig
from tests.infra.run_toy import context, run_both

run = context(sys.argv[1])
inputs = {"numbers": run_both(run)["numbers"].dataset}
print(run_stage(StageNode(ADD, AddConfig()), inputs, run).dataset.digest)
"""


def test_units_and_ranks_import_nothing_from_the_working_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name in ("alignment", "flows", "infra", "pipeline", "training", "tests"):
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)\nraise RuntimeError('not yours')\n"
            )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    script = (
        tmp_path / "bin" / "run.py"
    )  # as an installed command: its own folder is on the path, the working folder not
    script.parent.mkdir()
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "workspace")], cwd=folder, capture_output=True, text=True,
        env=environment | {"PYTHONPATH": str(REPOSITORY)}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "imported").exists()
