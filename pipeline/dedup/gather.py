"""The kernel that picks ranges out of a run of bytes read at once."""

from pipeline.kernels import kernel


@kernel
def copy_ranges(data, begin, size, out):  # type: ignore[no-untyped-def]
    """Copy ``data[begin[i]:begin[i] + size[i]]``, one after another, to ``out``."""
    filled = 0
    for i in range(len(begin)):
        out[filled : filled + size[i]] = data[begin[i] : begin[i] + size[i]]
        filled += size[i]
