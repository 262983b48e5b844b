"""Compiled loops: the one place that decides how a numba kernel is compiled.

Kernels are cached beside their source (or in numba's user cache), so that only the first run on a machine compiles.
Numba sees changes in a kernel's own file only: of a kernel that others call, ``touch`` their files when it changes.
Modules with kernels take half a second to import: steps import them when they run, not when a stage is declared.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

Function = Callable[..., Any]


def kernel(function: Function) -> Function:
    """Compile at the first call, without the interpreter lock. Unsigned arithmetic wraps, as in C."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # numba refuses at this point if neither the source's folder nor the user's cache can be written.
        return numba.njit(nogil=True)(function)


@kernel
def _low_bits(data, at):  # type: ignore[no-untyped-def]
    return np.uint32(data[at]) & np.uint32(0x3F)


@kernel
def code_point(data, at):  # type: ignore[no-untyped-def]  # compiled: types come from the call
    """The code point that begins at byte ``at`` (``uint64``) of valid UTF-8, and where the next one begins."""
    lead = np.uint32(data[at])
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    if lead < 0x80:
        return lead, at + one
    if lead < 0xE0:
        return ((lead & np.uint32(0x1F)) << np.uint32(6)) | _low_bits(data, at + one), at + two
    middle = _low_bits(data, at + one)
    if lead < 0xF0:
        return (
            ((lead & np.uint32(0x0F)) << np.uint32(12)) | (middle << np.uint32(6)) | _low_bits(data, at + two),
            at + three,
        )
    return (
        ((lead & np.uint32(0x07)) << np.uint32(18))
        | (middle << np.uint32(12))
        | (_low_bits(data, at + two) << np.uint32(6))
        | _low_bits(data, at + three),
        at + np.uint64(4),
    )
