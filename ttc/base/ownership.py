"""The one rule for folders and files of ours that hold code: nobody but this user can have put it there.

This user is the effective one, as whom files are made and read.
"""

import os
import stat

__all__ = ["why_foreign"]


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
