"""What this machine has: memory, and cores that this process may use."""

import os

__all__ = ["free_bytes", "physical_bytes", "usable_cores"]


def physical_bytes() -> int | None:
    """Return the bytes of physical memory; None where the system does not say."""
    return _bytes("SC_PHYS_PAGES")


def free_bytes() -> int | None:
    """Return the bytes of physical memory that nobody uses; None where the system does not say."""
    return _bytes("SC_AVPHYS_PAGES")


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bytes(pages: str) -> int | None:
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
