"""Fuzzing one reader led by what it covers, where atheris is installed.

    python -m tests.fuzz.guided READER --seconds 60

It begins with the seeds and the corpus, and what it finds to cover more grows in build/fuzz/READER. An input
that ends in neither way is written to build/fuzz/found/READER-crash-…, and the exit code is not 0.
"""

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ttc"]):
    from tests.fuzz.readers import READERS

from tests.fuzz.run import read_one
from tests.fuzz.seeds import seeds

__all__ = ["main"]

GROWN = Path("build/fuzz")


class Unexpected(Exception):
    """What atheris takes for a finding."""


def main() -> None:
    """Fuzz; atheris ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    grown, found = GROWN / asked.reader, GROWN / "found"
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(seeds(asked.reader)):
        (grown / f"seed-{number}").write_bytes(raw)
    warnings.simplefilter("ignore")  # a library may warn of odd input
    base = Path(tempfile.mkdtemp(prefix="ttc-fuzz-"))

    def one(raw: bytes) -> None:
        folder = base / "one"
        folder.mkdir()
        what, fine = read_one(asked.reader, raw, folder)
        shutil.rmtree(folder, ignore_errors=True)
        if not fine:
            raise Unexpected(what)

    words = (f"-max_total_time={asked.seconds}", "-max_len=65536", "-timeout=20", "-rss_limit_mb=4096")
    atheris.Setup([sys.argv[0], *words, f"-artifact_prefix={found}/{asked.reader}-", str(grown)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
