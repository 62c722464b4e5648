"""Locks on folders that are being written. The system lets a lock go with its process; process numbers say
nothing across containers that share a disk.
"""

import os
from pathlib import Path

__all__ = ["lock_folder", "unlock_folder"]


def lock_folder(folder: Path) -> int | None:
    """Lock a folder against being swept; return what `unlock_folder` takes.

    None where another process holds it, where there is no such folder, and where there are no such locks.
    """
    if os.name != "posix":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def unlock_folder(descriptor: int | None) -> None:
    """Let a folder go."""
    if descriptor is not None:
        os.close(descriptor)
