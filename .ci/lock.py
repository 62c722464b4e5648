"""Write .ci/dev.lock: every package of the development environment, by version and digest.

    .venv/bin/python .ci/lock.py        as `make lock` does

What is installed is asked of the index again, for the digest of the file that pip takes here, so the lock is
of this platform and this Python. `make setup LOCK=.ci/dev.lock` installs exactly these files. torch is left
out: its builds for one version differ by index, and `make setup` installs it by version first.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

OURS, LEFT_OUT = "twotower-compiler", ("pip", "torch", "twotower-compiler")
LOCK = Path(__file__).with_name("dev.lock")
HEAD = """\
# Written by `make lock` on {system}, Python {python}. Installed by `make setup LOCK=.ci/dev.lock`.
# torch is not in it: `make setup` installs that first, by version.
"""


def installed() -> dict[str, str]:
    """Return name → version of what this environment has, but `LEFT_OUT`."""
    found = {plain(each.metadata["Name"]): each.version for each in metadata.distributions()}
    return {name: version for name, version in sorted(found.items()) if name not in LEFT_OUT}


def plain(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digests(wanted: dict[str, str]) -> dict[str, str]:
    """Return name → sha256 of the file that pip takes for each."""
    with tempfile.TemporaryDirectory() as folder:
        lines, report = Path(folder) / "wanted.txt", Path(folder) / "report.json"
        lines.write_text("".join(f"{name}=={version}\n" for name, version in wanted.items()))
        words = ("--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", report, "-r", lines)
        subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True)
        told = json.loads(report.read_bytes())["install"]
    return {
        plain(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in told
    }


def main() -> None:
    """Write the file."""
    wanted = installed()
    found = digests(wanted)
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    system = f"{platform.system()} {platform.machine()}"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [HEAD.format(system=system, python=python)]
    lines += [f"{name}=={wanted[name]} \\\n    --hash=sha256:{found[name]}\n" for name in wanted]
    LOCK.write_text("".join(lines))
    sys.stdout.write(f"{LOCK}: {len(wanted)} packages\n")


if __name__ == "__main__":
    main()
