"""The one rule for what lies in this user's caches: nobody but this user can have put it there.

This user is the effective one, as whom files are made and read. The folder of a cache may be a link, as where
somebody keeps caches on another disk, if the link is this user's and what it leads to is. In that folder
nothing is.
"""

import os
import stat
from pathlib import Path

__all__ = ["why_foreign", "why_foreign_folder"]


def why_foreign_folder(folder: Path) -> str:
    """Return why the folder of a cache may be another user's; empty where it cannot be."""
    try:
        found = folder.lstat()
        if stat.S_ISLNK(found.st_mode):
            if os.name == "posix" and found.st_uid != os.geteuid():
                return f"is a link of another user (number {found.st_uid})"
            found = folder.stat()
    except OSError as fault:
        return f"cannot be read ({fault.strerror})"
    return why_foreign(found) or ("" if stat.S_ISDIR(found.st_mode) else "is no folder")


def why_foreign(found: os.stat_result) -> str:
    """Return why a file or folder may be another user's, by its `lstat`; empty where it cannot be.

    Where a system has no such users, only links are told.
    """
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if os.name != "posix":
        return ""
    if found.st_uid != os.geteuid():
        return f"belongs to another user (number {found.st_uid})"
    return "may be written to by others (make it yours with chmod go-w)" if found.st_mode & 0o022 else ""
