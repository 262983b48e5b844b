#!/usr/bin/env bash
# Check an accelerator in one command of under 8 minutes: tests/gpu/run.sh [--out FILE] [--toy] [--limit SECONDS]
# Needs Python 3.12 with PyTorch (CUDA) and no network; what else is missing comes from tests/gpu/wheels (see wheels.sh).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
if ls tests/gpu/wheels/*.whl >/dev/null 2>&1 && ! "$python" -c 'import deepspeed, pydantic' >/dev/null 2>&1; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" tests/gpu/wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" -m tests.gpu.check "$@"
