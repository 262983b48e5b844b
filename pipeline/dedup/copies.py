"""The kernels of the exact level: texts with their white space evened out."""

import numpy as np

from pipeline.kernels import kernel


@kernel
def collapse(data, begin, stop, out):  # type: ignore[no-untyped-def]
    """Copy ``data[begin:stop]`` with runs of ASCII white space and no-break spaces made one space, none at the ends.

    Every byte is written and the place moved on only if it counts: a branch at each space would be mispredicted.
    """
    one = np.uint64(1)
    at = np.uint64(begin)
    end = np.uint64(stop)
    size = np.uint64(0)
    after_gap = np.uint64(1)
    while at < end:
        byte = data[at]
        at += one
        gap = np.uint64((byte == 32) | (np.uint8(byte - 9) < 5))
        if byte == 0xC2 and at < end and data[at] == 0xA0:
            at += one
            gap = one
        out[size] = 32 if gap else byte
        size += one - (gap & after_gap)
        after_gap = gap
    return np.int64(size - (after_gap if size > 0 else np.uint64(0)))


@kernel
def collapse_texts(data, offsets, out, ends):  # type: ignore[no-untyped-def]
    """Texts ``data[offsets[i]:offsets[i + 1]]``, collapsed, one after another in ``out``; ``ends`` says where each ends."""
    filled = 0
    for i in range(len(offsets) - 1):
        filled += collapse(data, offsets[i], offsets[i + 1], out[filled:])
        ends[i] = filled
