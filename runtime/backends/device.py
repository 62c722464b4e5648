"""Device names as users write them."""

import re

from ttc.errors import InputError

__all__ = ["parse_device"]


def parse_device(device: str) -> tuple[str, int]:
    """Kind and index of "cpu", "cuda" or "cuda:N"."""
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", device) if isinstance(device, str) else None
    if match is None or (match[1] == "cpu" and match[2]):
        raise InputError(f"unknown device {device!r}; valid: cpu, cuda, cuda:N")
    return match[1], int(match[2] or 0)
