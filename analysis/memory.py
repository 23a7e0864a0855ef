"""Memory that a step of training frees is kept for the next step.

A step frees and asks again for some hundred MB. glibc gives large pieces back to the system, which
hands out each page anew, zeroed: on a virtual machine a fifth of a step of the paper's size.
"""

import ctypes
import platform

# mallopt(3): how large a piece is mapped by itself, and how much may lie free at the heap's end
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGEST = 2**31 - 1


def keep_freed() -> None:
    """Let this process keep what it frees, from here on; only where glibc is."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
