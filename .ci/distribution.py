"""Build the sdist, the wheel from it, and check both: what is in them, and what an index would say of them.

    python .ci/distribution.py DIST [--tag v1.2.3]

Needs the packages build, setuptools and twine, and no network. DIST must be empty or absent.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Build and check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--tag", help="the git tag that is to be published")
    asked = parser.parse_args()
    version = re.search(r'^__version__ = "(.*)"$', (ROOT / "ttc" / "__init__.py").read_text("utf-8"), re.M)
    assert version is not None
    if asked.tag is not None:
        check_tag(asked.tag, version[1])
    if asked.dist.exists() and any(asked.dist.iterdir()):
        raise SystemExit(f"{asked.dist}: not empty")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(asked.dist), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = asked.dist.glob("*.whl"), asked.dist.glob("*.tar.gz")
    check_contents(wheel, sdist)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], check=True)
    for file in (sdist, wheel):
        sys.stdout.write(f"wrote {file}: {file.stat().st_size / 1e6:.1f} MB\n")
    return 0


def check_tag(tag: str, version: str) -> None:
    """Raise `SystemExit` unless a tag, the version and the changelog agree."""
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, the version in ttc/__init__.py is {version}")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.M):
        raise SystemExit(f"CHANGELOG.md has no section '## {version} (YEAR-MONTH-DAY)'")
    if f"version: {version}\n" not in (ROOT / "CITATION.cff").read_text("utf-8"):
        raise SystemExit(f"CITATION.cff is not of version {version}")


def check_contents(wheel: Path, sdist: Path) -> None:
    """Raise `SystemExit` unless the wheel and the sdist hold the package's files, and nothing beside them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {name.replace(".", "/"): folder for name, folder in settings["package-dir"].items()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("ttc/py.typed", "ttc/miniature/model.safetensors", "ttc/miniature/bundle/bundle.json"):
        if name not in held:
            raise SystemExit(f"{wheel}: {name} is missing")
    foreign = sorted(name for name in held if not name.startswith("ttc/") or "test" in name.split("/"))
    if foreign:
        raise SystemExit(f"{wheel}: {foreign[:3]} are no part of the package")
    for name in held:
        source = name
        for package, folder in folders.items():
            if name.startswith(f"{package}/"):
                source = folder + name.removeprefix(package)
        if source not in packed:
            raise SystemExit(f"{sdist}: {source} is missing")


if __name__ == "__main__":
    sys.exit(main())
