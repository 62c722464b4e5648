"""Device names as users write them."""

import re

from ttc.errors import InputError

__all__ = ["parse_device", "parse_gpus"]


def parse_device(device: str) -> tuple[str, int]:
    """Kind and index of "cpu", "cuda" or "cuda:N"."""
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", device) if isinstance(device, str) else None
    if match is None or (match[1] == "cpu" and match[2]):
        raise InputError(f"unknown device {device!r}; valid: cpu, cuda, cuda:N")
    return match[1], int(match[2] or 0)


def parse_gpus(device: str, backend: str) -> tuple[int, ...]:
    """Index of one GPU, or of two different ones: "cuda", "cuda:N" or "cuda:N,cuda:M"."""
    found = [parse_device(name) for name in device.split(",")] if isinstance(device, str) else []
    indices = tuple(index for kind, index in found if kind == "cuda")
    if not indices or len(indices) < len(found) or len(set(indices)) < len(indices) or len(indices) > 2:
        raise InputError(
            f"device is {device!r}; backend {backend!r} runs on cuda or cuda:N, "
            "or with a tower on each of two GPUs: cuda:0,cuda:1"
        )
    return indices
