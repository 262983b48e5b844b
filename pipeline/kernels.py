"""Compiled loops: the one place that decides how a numba kernel is compiled.

Kernels are cached beside their source (or in numba's user cache), so that only the first run on a machine compiles.
Modules with kernels take half a second to import: steps import them when they run, not when a stage is declared.
"""

from collections.abc import Callable
from typing import Any

import numba

Function = Callable[..., Any]


def kernel(function: Function) -> Function:
    """Compile at the first call, without the interpreter lock. Unsigned arithmetic wraps, as in C."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # numba refuses at this point if neither the source's folder nor the user's cache can be written.
        return numba.njit(nogil=True)(function)
