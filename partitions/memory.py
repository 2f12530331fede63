"""Memory that the C library keeps after it was freed, given back to the system."""

import ctypes


def give_back() -> None:
    """Let go of what is free; where the C library has no call for that, nothing happens.

    For the end of a phase that took much: a start from a snapshot of a million jobs leaves 23 MB
    in lists between what lasts (289 bytes a job, 266 after this; some ms).
    """
    # Of glibc; musl and others return free memory by themselves or never.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
