#!/bin/sh
# Take out of a virtual environment what only building and testing need, and compile the rest to byte code.
set -eu
packages=$(echo "$1"/lib/python3.*/site-packages)

rm -rf "$packages/torch/include" "$packages/torch/share/cmake" "$packages/pyarrow/include"
for package in numpy pandas scipy pyarrow numba sympy torch networkx; do
    find "$packages/$package" -type d -name tests -prune -exec rm -rf {} +
done
find "$packages" -name '*.a' -delete

# A few packages carry files that are no Python 3: they fail to compile, and are never imported.
"$1/bin/python" -m compileall -q -j 2 --invalidation-mode unchecked-hash "$packages" > /tmp/compile.log 2>&1 || grep -c Error: /tmp/compile.log
