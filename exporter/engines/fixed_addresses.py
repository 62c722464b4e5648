"""Start a process so that its memory lies at the same addresses each time.

Linux puts programs, libraries and heaps at random places unless it is told not to, which the process that is
to run must do itself before its program starts: so a few lines of Python tell it, and become the program.
"""

import ctypes
import signal
import sys
from collections.abc import Sequence

__all__ = ["are_addresses_fixed", "command_at_fixed_addresses"]

_ADDR_NO_RANDOMIZE, _ASK = 0x0040000, 0xFFFFFFFF  # of personality(2)
_PR_SET_PDEATHSIG = 1
# Where the system refuses, as Docker's filter of system calls does, the program runs all the same. It ends
# when the one that started it ends, however that does.
_LAUNCHER = (
    "import ctypes, os, sys; library = ctypes.CDLL(None); "
    f"library.prctl({_PR_SET_PDEATHSIG}, {signal.SIGKILL if sys.platform == 'linux' else 0}); "
    f"library.personality({_ADDR_NO_RANDOMIZE}); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def command_at_fixed_addresses(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs this Python with these arguments at fixed addresses, where that can be."""
    if sys.platform != "linux":
        return [sys.executable, *arguments]
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, *arguments]


def are_addresses_fixed() -> bool:
    """Whether this process was started at fixed addresses."""
    if sys.platform != "linux":
        return False
    found: int = ctypes.CDLL(None).personality(_ASK)
    return found >= 0 and bool(found & _ADDR_NO_RANDOMIZE)
