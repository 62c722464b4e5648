"""Run a command as Docker's filter of system calls lets it run: personality(2) is refused, but for asking.

python -m tests.support.no_personality COMMAND …
"""

import ctypes
import errno
import os
import platform
import struct
import sys

__all__ = ["refuse_personality"]

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_PERSONALITY = {"x86_64": 135, "aarch64": 92}
_ASK = 0xFFFFFFFF


def refuse_personality() -> None:
    """Install the filter in this process; it holds for all that it starts."""
    # Instructions of linux/filter.h: code, jumps where true and false, value. First the number of the call is
    # loaded, then the low half of its first argument.
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),
            (0x15, 0, 3, _PERSONALITY[platform.machine()]),
            (0x20, 0, 0, 16),
            (0x15, 1, 0, _ASK),
            (0x06, 0, 0, 0x00050000 | errno.EPERM),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    assert library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert library.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(header), 0, 0) == 0


if __name__ == "__main__":
    refuse_personality()
    assert ctypes.CDLL(None).personality(0x0040000) == -1
    os.execvp(sys.argv[1], sys.argv[1:])
