#!/usr/bin/env bash
# Collect into tests/gpu/wheels (ignored by git) what a machine with PyTorch and without a network lacks for run.sh:
# pydantic and DeepSpeed with what they need. Under 50 MB.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
target=${TARGET_PYTHON:-3.12}
folder=tests/gpu/wheels
rm -rf "$folder"
mkdir -p "$folder"
version() { sed -n "s/^$1==//p" constraints.txt; }
platforms=()
for platform in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64; do platforms+=(--platform "$platform"); done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$target" --implementation cp \
    "${platforms[@]}" --dest "$folder" "pydantic==$(version pydantic)" "pydantic-core==$(version pydantic_core)" \
    "backports.zstd==$(version backports.zstd)" "sentencepiece==$(version sentencepiece)" annotated-types typing-inspection hjson
# Distributed as source only; without its compiled extensions it is pure Python.
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "deepspeed==$(version deepspeed)"
du -sm "$folder"
