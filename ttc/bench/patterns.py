"""Searching with patterns that others wrote, of which one may take for ever: in a process of its own, with
limits on its time and its memory.
"""

import json
import logging
import subprocess
import sys
import threading
from typing import Self

from ttc.formats.strictjson import quoted

__all__ = ["PatternSearch"]

logger = logging.getLogger(__name__)

_SECONDS = 2.0
_PROGRAM = """
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
except ImportError:
    pass
for line in sys.stdin:
    pattern, text = json.loads(line)
    sys.stdout.write("%d\\n" % (re.search(pattern, text) is not None))
    sys.stdout.flush()
"""


class PatternSearch:
    """Searches texts; its process is started by the first search, and again after one that took too long."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """`seconds`: that one search may take."""
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def finds(self, pattern: str, text: str) -> bool:
        """Return whether the pattern is found in the text; not, where that takes longer than it may."""
        process = self._process = self._process or self._started()
        answer: list[str] = []
        reader = threading.Thread(target=_ask, args=(process, json.dumps([pattern, text]), answer))
        reader.start()
        reader.join(self._seconds)
        late = reader.is_alive()
        if late or answer not in (["0\n"], ["1\n"]):
            self.close()
            reader.join()
            why = f"takes longer than {self._seconds:g} s" if late else "cannot be searched for"
            logger.warning("the pattern %s %s; its answer counts as wrong", quoted(pattern), why)
            return False
        return answer == ["1\n"]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    @staticmethod
    def _started() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ask(process: "subprocess.Popen[str]", line: str, answer: list[str]) -> None:
    """Append the answer to a line; nothing where the process ends before it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer.append(process.stdout.readline())
    except (OSError, ValueError):
        return
