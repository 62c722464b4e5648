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

__all__ = ["MOST_FILES", "MOST_FILE_BYTES", "forbid_network", "keep_offline", "limit_resources"]

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


def keep_offline(is_due: bool) -> bool:
    """Keep this process off the network where the system has a way; return whether it is kept off.

    Args:
        is_due: whether the process may do nothing otherwise, as where somebody vouches for what it makes.

    Raises:
        BackendError: it is due, and the system has no way.
    """
    if forbid_network():
        return True
    if is_due:
        raise BackendError(
            "the process that builds an engine cannot be kept off the network here, and a build that signs, "
            "or that trusts a key, insists on it; run where the kernel takes seccomp filters (Linux)"
        )
    return False


def forbid_network(kill: bool = False) -> bool:
    """Let this process, and what it starts, open no socket of IPv4 or IPv6: socket(2) says EACCES.

    A filter of system calls (seccomp) in the kernel, so libraries in C are held by it too.

    Args:
        kill: end a process that tries by SIGSYS instead, so that a test sees it.

    Returns:
        Whether the filter holds. It does not where the kernel refuses it, as in some containers, and
        elsewhere than on Linux on the architectures above.
    """
    found = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or found is None:
        return False
    architecture, socket = found
    return _install(
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


def _install(instructions: Sequence[tuple[int, int, int, int]]) -> bool:
    """Give a filter to the kernel, which holds until the process ends; return whether it took it."""
    program = (_Instruction * len(instructions))(*(_Instruction(*each) for each in instructions))
    library = ctypes.CDLL(None)
    filter_ = _Program(len(instructions), program)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    refused: int = library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0)
    return not refused
