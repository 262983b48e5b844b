"""The dependencies that pyproject.toml names, one a line: python requirements.py PYPROJECT [EXTRA...]

The image installs them before it sees the code, so that a change of the code does not install them again.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
wanted = [
    *project["dependencies"],
    *(name for extra in sys.argv[2:] for name in project["optional-dependencies"][extra]),
]
print(*wanted, sep="\n")
