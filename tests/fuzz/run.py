"""Fuzzing the readers: `python -m tests.fuzz.run --inputs 5000 --seed 1` and a table of what came of it.

Every input ends in one of two ways: it is read, or it is refused by one `TtcError` of one line. Anything
else, another exception, a panic, a crash of the process or a hang, is a finding: its bytes are written into
the folder that `--save` names, and the exit code is 1.
"""

import argparse
import faulthandler
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.mutate import mutate
from tests.fuzz.readers import READERS
from tests.fuzz.seeds import seeds
from ttc.bench.record_file import record_file, write_record
from ttc.errors import TtcError

__all__ = ["Outcome", "inputs", "main", "read_one"]

MOST_SECONDS = 10
MOST_MESSAGE = 2000


@dataclass(slots=True)
class Outcome:
    """What came of one reader's inputs. `findings`: what was wrong → one input that shows it."""

    read: int = 0
    refused: int = 0
    findings: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


class _Late(BaseException):
    """An input took too long."""


def inputs(reader: str, count: int, seed: int) -> Iterator[bytes]:
    """Yield what a reader is given: its seeds, then mutations of them; the same for the same seed."""
    good = seeds(reader)
    yield from good
    rng = random.Random(f"{reader} {seed}")
    for _ in range(max(0, count - len(good))):
        yield mutate(rng.choice(good), good, rng)


def read_one(reader: str, raw: bytes, folder: Path) -> tuple[str, bool]:
    """Give one input to a reader; return ("read" or "refused", or what is wrong) and whether that is fine."""
    try:
        READERS[reader](raw, folder)
    except TtcError as refusal:
        message = str(refusal)
        if "\n" in message or len(message) > MOST_MESSAGE:
            return f"a message of {len(message)} characters, {message.count(chr(10)) + 1} lines", False
        return "refused", True
    except (KeyboardInterrupt, SystemExit):
        raise
    except _Late:
        return f"longer than {MOST_SECONDS} s", False
    except BaseException as fault:
        last = traceback.extract_tb(fault.__traceback__)[-1]
        return f"{type(fault).__name__} in {Path(last.filename).name}:{last.lineno}", False
    return "read", True


def fuzz(reader: str, count: int, seed: int, seconds: float | None = None) -> Outcome:
    """Give a reader so many inputs, or as many as fit into the seconds."""
    outcome, began = Outcome(), time.monotonic()
    warnings.simplefilter("ignore")  # a library may warn of odd input
    faulthandler.enable()
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _too_late)
    with tempfile.TemporaryDirectory(prefix="ttc-fuzz-") as base:
        for number, raw in enumerate(inputs(reader, count, seed)):
            if seconds is not None and time.monotonic() - began > seconds:
                break
            folder = Path(base) / str(number)
            folder.mkdir()
            start = time.monotonic()
            if hasattr(signal, "SIGALRM"):
                signal.alarm(MOST_SECONDS)
            what, fine = read_one(reader, raw, folder)
            if hasattr(signal, "SIGALRM"):
                signal.alarm(0)
            outcome.slowest = max(outcome.slowest, time.monotonic() - start)
            shutil.rmtree(folder, ignore_errors=True)
            outcome.read += what == "read"
            outcome.refused += what == "refused"
            if not fine:
                outcome.counts[what] += 1
                outcome.findings.setdefault(what, raw)
    return outcome


def _too_late(number: int, frame: FrameType | None) -> None:
    raise _Late


def _in_process(arguments: tuple[str, int, int, float | None], answer: Any) -> None:
    answer.send(fuzz(*arguments))


def _isolated(reader: str, count: int, seed: int, seconds: float | None) -> Outcome:
    """Fuzz in a process of its own, so that its death is a finding too."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=((reader, count, seed, seconds), there))
    process.start()
    there.close()
    try:
        outcome: Outcome = here.recv()
    except EOFError:
        process.join()
        outcome = Outcome()
        outcome.counts[f"the process died: {process.exitcode}"] += 1
    process.join()
    return outcome


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--reader", action="append", choices=READERS, help="[default: all]")
    parser.add_argument("--inputs", type=int, default=1000, help="of each reader  [default: 1000]")
    parser.add_argument("--seconds", type=float, help="of each reader at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for inputs that show something wrong")
    parser.add_argument(
        "--record", type=record_file, help="JSON file of the outcomes, for `tests.fuzz.table`"
    )
    parser.add_argument("--list", action="store_true", help="only name the readers")
    asked = parser.parse_args()
    if asked.list:
        _say("\n".join(READERS))
        return 0
    if asked.save is not None:
        asked.save.mkdir(parents=True, exist_ok=True)
    total = bad = 0
    rows, began = {}, time.monotonic()
    _say(f"{'reader':30} {'inputs':>8} {'read':>8} {'refused':>8} {'slowest':>9}  unexpected")
    for reader in asked.reader or READERS:
        found = _isolated(reader, asked.inputs, asked.seed, asked.seconds)
        wrong = sum(found.counts.values())
        count = found.read + found.refused + wrong
        total, bad = total + count, bad + wrong
        told = json.dumps(dict(found.counts)) if wrong else "0"
        row = f"{reader:30} {count:8} {found.read:8} {found.refused:8} {found.slowest:7.2f} s  {told}"
        _say(row)
        rows[reader] = {"inputs": count, "read": found.read, "refused": found.refused, "unexpected": wrong}
        if asked.record is not None:  # after each, since a run may be ended
            whole = {"seed": asked.seed, "seconds": round(time.monotonic() - began), "readers": rows}
            write_record(asked.record, whole)
        if asked.save is not None:
            for raw in found.findings.values():
                target = asked.save / reader
                target.mkdir(exist_ok=True)
                (target / sha256(raw).hexdigest()[:8]).write_bytes(raw)
    _say(f"{total} inputs, {bad} unexpected outcomes")
    return int(bad > 0)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
