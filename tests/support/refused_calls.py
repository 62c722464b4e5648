"""Run a command where the kernel refuses one system call, as in some containers.

python -m tests.support.refused_calls personality|seccomp COMMAND …

`personality`: as Docker's filter has it, for anything but asking. `seccomp`: no further filter is taken.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

__all__ = ["refuse"]

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_ASK = 0xFFFFFFFF
_MACHINE = {"x86_64": 0, "aarch64": 1}
# Numbers of the calls on these machines; a first argument; whether it is refused, or all others are.
_CALLS = {"personality": ((135, 92), _ASK, False), "seccomp": ((157, 167), _PR_SET_SECCOMP, True)}


def refuse(what: str) -> None:
    """Install the filter in this process; it holds for all that it starts."""
    numbers, argument, is_meant = _CALLS[what]
    # Instructions of linux/filter.h: code, jumps where true and false, value. First the number of the call is
    # loaded, then the low half of its first argument.
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),
            (0x15, 0, 3, numbers[_MACHINE[platform.machine()]]),
            (0x20, 0, 0, 16),
            (0x15, *((0, 1) if is_meant else (1, 0)), argument),
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
    refuse(sys.argv[1])
    if sys.argv[1] == "personality":
        assert ctypes.CDLL(None).personality(0x0040000) == -1
    os.execvp(sys.argv[2], sys.argv[2:])
