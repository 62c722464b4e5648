"""The CUDA driver and its GPUs, asked directly: no CUDA package is needed, only the driver's own library."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["examine_driver"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NAME_BYTES = 128


def examine_driver(load: Callable[[str], Any] = ctypes.CDLL) -> dict[str, Any] | None:
    """Return the highest CUDA version the driver takes, its GPUs, and which of them reach each other's
    memory.

    load: opens the driver's library by name.

    Returns:
        {"cuda", "devices": [{"name", "memory_bytes"}], "peers": [[bool]]}, where peers[a][b] says whether
        GPU a can read b's memory; None where there is no driver, or it finds no GPU.
    """
    try:
        driver = load(_LIBRARY)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    numbers = range(count.value)
    return {
        "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "devices": [_device(driver, number) for number in numbers],
        "peers": [[a == b or _reaches(driver, a, b) for b in numbers] for a in numbers],
    }


def _device(driver: Any, number: int) -> dict[str, Any]:
    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    failed = driver.cuDeviceGetName(name, _NAME_BYTES, number)
    unknown = driver.cuDeviceTotalMem_v2(ctypes.byref(memory), number)
    return {
        "name": "unknown" if failed else name.value.decode("utf-8", "replace"),
        "memory_bytes": None if unknown else memory.value,
    }


def _reaches(driver: Any, a: int, b: int) -> bool:
    can = ctypes.c_int()
    return driver.cuDeviceCanAccessPeer(ctypes.byref(can), a, b) == 0 and bool(can.value)
