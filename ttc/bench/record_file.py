"""Files of measurements, for the scripts in `benchmarks/`, `tests/` and `examples/`.

Whether one can be written is found out before the measuring, and it appears whole or not at all.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ttc.base.files import check_writable, write_whole
from ttc.errors import InputError

__all__ = ["record_file", "write_record"]


def record_file(text: str) -> Path:
    """Return the path of a file that can be written, as a `type` of argparse; its folder is made.

    A default is tried as well where it is a text.

    Raises:
        argparse.ArgumentTypeError: the folder cannot be made, or the file not be written.
    """
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except (OSError, InputError) as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None
    return path


def write_record(path: Path, record: Any) -> None:
    """Write what JSON can hold; `InputError` where that fails, and what was there is as it was."""
    write_whole(path, json.dumps(record, indent=1) + "\n")
