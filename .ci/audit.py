"""Ask a database of known vulnerabilities about every package in .ci/dev.lock.

    .venv/bin/python .ci/audit.py [--required]      without the option as `make audit` does

Runs pip-audit in an environment of its own (build/audit). Exit code 1 where a package has a known one. Where
pip-audit cannot be installed, or the database does not answer, that is said, and the exit code is 0, or 1
with --required: the last line is "audit: skipped" or "audit: N packages, no known vulnerability".
"""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK, PLACE = Path(__file__).with_name("dev.lock"), ROOT / "build" / "audit"
MOST_SECONDS = 300


def main() -> int:
    """Ask, and tell; return the exit code."""
    required = sys.argv[1:] == ["--required"]
    python = PLACE / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    try:
        if not python.exists():
            venv.create(PLACE, with_pip=True)
        _run([python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "pip-audit>=2.7"])
        asked = ("-r", LOCK, "--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json")
        done = _run([python, "-m", "pip_audit", *asked], codes=(0, 1))
        return verdict(json.loads(done.stdout)["dependencies"], required)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as fault:
        return _skipped(_reason(fault), required)


def verdict(packages: list[dict[str, Any]], required: bool = False) -> int:
    """Tell what pip-audit found; return the exit code. required: whether no answer is a failure."""
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if len(unknown) == len(packages):
        return _skipped("the database knows none of the packages, so no index of them answers here", required)
    bad = [(each, found) for each in packages for found in each.get("vulns", ())]
    for each, found in bad:
        fixed = ", ".join(found["fix_versions"]) or "no version"
        sys.stdout.write(f"{each['name']} {each['version']}: {found['id']}, mended in {fixed}\n")
    if unknown:
        sys.stdout.write(f"not known to the database: {', '.join(unknown)}\n")
    told = f"{len(bad)} known vulnerabilities" if bad else "no known vulnerability"
    sys.stdout.write(f"audit: {len(packages) - len(unknown)} packages, {told}\n")
    return int(bool(bad))


def _run(words: list[Any], codes: tuple[int, ...] = (0,)) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(words, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    if done.returncode not in codes or not (done.stdout or codes == (0,)):
        raise subprocess.CalledProcessError(done.returncode, words[2], done.stdout, done.stderr)
    return done


def _reason(fault: Exception) -> str:
    said = str(getattr(fault, "stderr", None) or fault).strip().splitlines() or [type(fault).__name__]
    return said[-1][:200]


def _skipped(why: str, required: bool) -> int:
    sys.stdout.write(f"audit: skipped, {why}\n")
    return int(required)


if __name__ == "__main__":
    sys.exit(main())
