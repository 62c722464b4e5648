"""What TensorRT measured while it built, kept for later builds: its timing cache."""

import os
from pathlib import Path
from typing import Final

from ttc.base.files import read_bounded
from ttc.base.ownership import why_foreign_folder
from ttc.errors import InputError
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.cache import default_cache_folder

__all__ = ["read_timings", "timing_file"]

_MOST_BYTES: Final = 2**30


def timing_file(settings: BuildSettings, version: str | None) -> Path | None:
    """Return the file that timings are kept in: the named one, or one in the cache of engines.

    As of engines, a build that signs takes none from the cache, and nobody does where it may be another's:
    the library parses them, and they decide which kernels are in an engine.
    """
    if settings.timing_cache is not None:
        return Path(settings.timing_cache)
    if settings.backend != "tensorrt" or not settings.cache or settings.sign is not None:
        return None
    folder = default_cache_folder()
    return None if os.path.lexists(folder) and why_foreign_folder(folder) else folder / f"timings-{version}"


def read_timings(file: Path) -> bytes:
    """Return what is in a file of timings; nothing where there is none yet.

    Raises:
        InputError: it cannot be read, is no regular file, or is far too large.
    """
    return read_bounded(file, _MOST_BYTES, InputError) if os.path.lexists(file) else b""
