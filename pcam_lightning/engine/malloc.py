"""How this process keeps its memory."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for the next allocation, where it is glibc's; else nothing.

    By default it gets every large block from the kernel and gives it back, so that each step's
    activations are new pages, which the kernel fills with zeros one page fault at a time: on a CPU
    a tenth of a step of the cnn, and a third of one of a wide MLP.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
