"""The kernels of the exact level: texts with their white space evened out."""

import numpy as np

from pipeline.kernels import kernel


@kernel
def collapse(data, begin, stop, out):  # type: ignore[no-untyped-def]
    """Copy ``data[begin:stop]`` with runs of ASCII white space and no-break spaces made one space, none at the ends."""
    one = np.uint64(1)
    at = np.uint64(begin)
    end = np.uint64(stop)
    size = np.uint64(0)
    gap = False
    while at < end:
        byte = data[at]
        if byte == 0xC2 and at + one < end and data[at + one] == 0xA0:
            gap = True
            at += np.uint64(2)
            continue
        at += one
        if byte == 32 or (byte >= 9 and byte <= 13):
            gap = True
            continue
        if gap:
            out[size] = 32
            size += np.uint64(size > 0)
            gap = False
        out[size] = byte
        size += one
    return np.int64(size)


@kernel
def collapse_texts(data, offsets, out, ends):  # type: ignore[no-untyped-def]
    """Texts ``data[offsets[i]:offsets[i + 1]]``, collapsed, one after another in ``out``; ``ends`` says where each ends."""
    filled = 0
    for i in range(len(offsets) - 1):
        filled += collapse(data, offsets[i], offsets[i + 1], out[filled:])
        ends[i] = filled
