"""Several processes that work at once, fed one job at a time each.

Processes and not threads, since numpy's casts to small floats hold the interpreter. They are started afresh,
so a caller's threads, and whether its program is guarded against being imported, do not matter.
"""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from ttc import errors
from ttc.errors import BackendError
from ttc.quantize.work import Done, Job, do

__all__ = ["carry_out"]

# A worker computes with one thread; the libraries below numpy would start one a core.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def carry_out(jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, Done]]:
    """Yield the number of each job and what came of it, as they end; one process works in the caller's own.

    Raises:
        What `ttc.quantize.work.do` raises; nothing is begun after that.
        BackendError: a process died.
    """
    if processes == 1:
        for i, job in enumerate(jobs):
            yield i, do(job)
        return
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    started = []
    threads = ThreadPoolExecutor(processes)
    try:
        for _ in range(processes):
            started.append(_start())
            idle.put(started[-1])
        futures = {threads.submit(_send, idle, job): i for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for process in started:
            process.kill()  # whoever waits for its answer gets an end of file
        threads.shutdown(cancel_futures=True)
        for process in started:
            process.communicate()


def _start() -> "subprocess.Popen[str]":
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ttc.quantize.worker"],
        env=os.environ | _ONE_THREAD | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt goes to the caller, who ends it
    )


def _send(idle: "queue.SimpleQueue[subprocess.Popen[str]]", job: Job) -> Done:
    """Have a process that is idle do the job."""
    process = idle.get()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job.to_dict()) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except (OSError, ValueError):
        answer = ""
    finally:
        idle.put(process)
    if not answer:
        raise BackendError(
            f"{job.name}: the process that worked on it died (exit code {process.poll()}); where that is for "
            "want of memory, take fewer with --jobs"
        )
    found = json.loads(answer)
    if "errno" in found:
        raise OSError(found["errno"], found["error"])
    if "kind" in found:
        raise getattr(errors, found["kind"])(found["error"])
    return Done(**found)
