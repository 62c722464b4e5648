"""Where this user's caches lie: what can be made again, and may be deleted at any time."""

import os
from pathlib import Path

__all__ = ["user_cache"]


def user_cache(name: str) -> Path:
    """Return the folder of one of our caches: `$XDG_CACHE_HOME/ttc/<name>`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttc" / name
