"""The memory of this machine."""

import os

__all__ = ["physical_bytes"]


def physical_bytes() -> int | None:
    """Return the bytes of physical memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
