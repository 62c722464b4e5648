"""The process that does the work: `python -m ttc.quantize.worker`.

A line of standard input is a job as JSON, a line of standard output what came of it: the fields of `Done`, or
{"kind", "error"} of what was raised. It ends with its input.
"""

import dataclasses
import json
import sys

from ttc.errors import TtcError
from ttc.quantize.work import Job, do

__all__ = ["main"]


def main() -> None:
    """Do jobs until there are no more."""
    for line in sys.stdin:
        try:
            found = dataclasses.asdict(do(Job.from_dict(json.loads(line))))
        except TtcError as fault:
            found = {"kind": type(fault).__name__, "error": str(fault)}
        except OSError as fault:  # of the disk that is written to: it decides by the number what to say
            found = {"kind": "OSError", "error": fault.strerror or str(fault), "errno": fault.errno}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
