"""What the process that builds an engine may not do: more memory than there is, endless files, the network.

The libraries in it parse graphs that others may have made. The limits keep a fault of theirs from taking the
machine along; they are no sandbox.
"""

import ctypes
import errno
import platform
import sys
from collections.abc import Sequence
from typing import Final

from ttc.base.machine import physical_bytes
from ttc.errors import BackendError

__all__ = ["MOST_FILES", "MOST_FILE_BYTES", "forbid_network", "limit_resources"]

MOST_FILE_BYTES: Final = 2**38
MOST_FILES: Final = 1024

# linux/audit.h and the numbers of socket(2): the architectures that ttc is used on.
_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_AF_INET, _AF_INET6 = 2, 10
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# Offsets in struct seccomp_data: the system call's number, the architecture, the low half of its first
# argument.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


class _Instruction(ctypes.Structure):
    """One instruction of a seccomp filter, struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_equal", ctypes.c_uint8),
        ("if_not", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """A seccomp filter, struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def limit_resources() -> None:
    """Bound this process's data, its files and its descriptors, and keep it from dumping core.

    Memory that a library reserves without writing to it, as CUDA's driver does by the terabyte, is not data.
    """
    if sys.platform == "win32":
        return
    import resource

    limits = {
        resource.RLIMIT_FSIZE: MOST_FILE_BYTES,
        resource.RLIMIT_NOFILE: MOST_FILES,
        resource.RLIMIT_CORE: 0,
    }
    memory = physical_bytes()
    if memory is not None:
        limits[resource.RLIMIT_DATA] = memory
    for which, most in limits.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def forbid_network(kill: bool = False) -> None:
    """Let this process, and what it starts, open no socket of IPv4 or IPv6: socket(2) says EACCES.

    A filter of system calls (seccomp) in the kernel, so libraries in C are held by it too. Elsewhere than on
    Linux on the architectures above nothing is done.

    Args:
        kill: end a process that tries by SIGSYS instead, so that a test sees it.

    Raises:
        BackendError: the kernel refuses the filter.
    """
    found = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or found is None:
        return
    architecture, socket = found
    _install(
        (
            (_LOAD_WORD, 0, 0, _ARCHITECTURE),
            (_JUMP_IF_EQUAL, 0, 5, architecture),
            (_LOAD_WORD, 0, 0, _NUMBER),
            (_JUMP_IF_EQUAL, 0, 3, socket),
            (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_IF_EQUAL, 2, 0, _AF_INET),
            (_JUMP_IF_EQUAL, 1, 0, _AF_INET6),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _KILL if kill else _ERRNO | errno.EACCES),
        )
    )


def _install(instructions: Sequence[tuple[int, int, int, int]]) -> None:
    """Give a filter to the kernel; it holds until the process ends."""
    program = (_Instruction * len(instructions))(*(_Instruction(*each) for each in instructions))
    library = ctypes.CDLL(None, use_errno=True)
    filter_ = _Program(len(instructions), program)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or library.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0
    ):
        reason = errno.errorcode.get(ctypes.get_errno(), "?")
        raise BackendError(
            f"the process that builds an engine cannot be kept off the network ({reason}); "
            "run where the kernel has seccomp filters"
        )
