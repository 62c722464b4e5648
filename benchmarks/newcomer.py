"""The path of a newcomer by stopwatch: install, text, a service that answers, a page of figures.

    python -m benchmarks.newcomer -o benchmarks/results/newcomer.json

In a fresh environment in a folder that goes away, from the files that git knows, with pip as it is set up
here (the index it asks, and its cache, are part of the first figure). Nothing of it needs torch. Where no
index answers it says so and exits with 3.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record

ROOT = Path(__file__).parents[1]
EXIT_NO_INDEX = 3


def main() -> int:
    """Walk the path, print the seconds, write the record."""
    parser = argparse.ArgumentParser(description="Measure the path of a newcomer.")
    parser.add_argument("-o", "--output", type=record_file, default="build/newcomer.json")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.newcomer", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
    }
    with tempfile.TemporaryDirectory(prefix="ttc-newcomer-") as folder:
        place = Path(folder)
        source, site = place / "ttc", place / "venv"
        _run(["git", "checkout-index", "--all", f"--prefix={source}/"], ROOT, {})
        venv.create(site, with_pip=True)
        environment = {
            "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(place / "cache"),
            "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR") or _pip_cache(),
        }
        try:
            steps = list(_steps(source, place, environment))
        except subprocess.CalledProcessError as fault:
            sys.stderr.write(fault.stderr or "")
            return EXIT_NO_INDEX if "No matching distribution" in (fault.stderr or "") else 1
        size = sum(path.stat().st_size for path in (site / "lib").rglob("*") if path.is_file())
        report |= {"steps": steps, "installed_mb": round(size / 1e6, 1)}
    for step in steps:
        print(f"{step['seconds']:7.1f} s  {step['command']}")
    print(f"{report['installed_mb']:7.1f} MB installed, pip included")
    write_record(args.output, report)
    print(f"wrote {args.output}")
    return 0


def _steps(source: Path, place: Path, environment: Mapping[str, str]) -> Any:
    """Yield every step with its seconds."""
    install = ["pip", "install", "-q", "--disable-pip-version-check", ".[serve]"]
    yield {
        "what": "install, without torch",
        "command": "pip install '.[serve]'",
        "seconds": _run(install, source, environment)[0],
    }
    text = ["ttc", "generate", "miniature", "--example", "story"]
    for what in ("the first text", "the second"):
        seconds, said = _run(text, place, environment)
        if "The answer is" not in said:
            raise AssertionError(f"no text: {said}")
        yield {"what": what, "command": shlex.join(text), "seconds": seconds}
    yield {
        "what": "a service, until curl has its first answer",
        "command": "ttc serve --demo",
        "seconds": _service(place, environment),
    }
    bench = ["ttc", "bench", "miniature", "--limit", "50", "--report", "bench.html"]
    yield {
        "what": "a page of figures: four modes, 50 problems",
        "command": shlex.join(bench),
        "seconds": _run(bench, place, environment)[0],
    }
    if not (place / "bench.html").is_file():
        raise AssertionError("no page was written")


def _service(place: Path, environment: Mapping[str, str]) -> float:
    """Return the seconds from the start of the service to its first answer."""
    began = time.perf_counter()
    command = ["ttc", "serve", "--demo", "--port", "0"]
    with subprocess.Popen(
        command, cwd=place, env={**_clean(), **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            said = ""
            while "listening on http://" not in said:
                line = process.stderr.readline()
                if not line:
                    raise AssertionError(f"the service ended: {said}")
                said += line
            address = said.partition("listening on ")[2].split()[0].rstrip(",;")
            body = json.dumps({"prompt": "Question: Sort 11, 61, 44, 74.\nAnswer:", "max_tokens": 32})
            request = urllib.request.Request(
                f"{address}/v1/completions", body.encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as answer:
                assert json.load(answer)["choices"][0]["text"].startswith(" 11, 44, 61, 74")
            return time.perf_counter() - began
        finally:
            process.terminate()


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[float, str]:
    """Run a command; return its seconds and its output."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**_clean(), **environment}, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, done.stdout


def _clean() -> dict[str, str]:
    """Return the environment without what would show this clone to the other Python."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _pip_cache() -> str:
    """Return pip's own cache, which another XDG_CACHE_HOME would hide."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pip")


if __name__ == "__main__":
    sys.exit(main())
