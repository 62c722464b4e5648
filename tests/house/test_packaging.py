"""The package list equals the disk, and a wheel holds every file and works."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ttc
from ttc.base.distribution import DISTRIBUTION, install

ROOT = Path(__file__).parents[2]
FOLDERS = ("exporter", "plugins", "profiles", "runtime", "serving")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def files_of_ttc() -> dict[str, Path]:
    """Every file that belongs to the package, by its place in the wheel."""
    sources = {"ttc": ROOT / "ttc"} | {f"ttc/{folder}": ROOT / folder for folder in FOLDERS}
    found = {}
    for prefix, folder in sources.items():
        for path in folder.rglob("*"):
            place = path.relative_to(folder)
            through_link = prefix == "ttc" and place.parts[0] in FOLDERS
            hidden = any(part.startswith(".") or part == "__pycache__" for part in place.parts)
            if path.is_file() and not through_link and not hidden:
                found[f"{prefix}/{place.as_posix()}"] = path
    return found


def test_the_package_list_equals_the_disk() -> None:
    packages = SETTINGS["tool"]["setuptools"]["packages"]
    assert packages == sorted(packages)
    modules = [place for place in files_of_ttc() if place.endswith(".py")]
    assert set(packages) == {place.rpartition("/")[0].replace("/", ".") for place in modules}


def test_every_package_has_an_init() -> None:
    files = files_of_ttc()
    folders = {place.rpartition("/")[0] for place in files if place.endswith(".py")}
    assert not [folder for folder in sorted(folders) if f"{folder}/__init__.py" not in files]


@pytest.mark.skipif(os.name == "nt", reason="git checks links out as text files there")
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links(folder: str) -> None:
    link = ROOT / "ttc" / folder
    assert link.is_symlink(), f"make it again: ln -s ../{folder} ttc/{folder}"
    assert os.readlink(link) == f"../{folder}"


TEXTS = [
    path
    for pattern in ("*.md", "*.toml", "Makefile", "docs/*.md", "deploy/**/*", "examples/**/*", "ttc/**/*.py")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix in {"", ".md", ".toml", ".yaml", ".py", ".service"}
] + [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def test_no_page_and_no_hint_names_another_package() -> None:
    """On the index `ttc` is somebody else's project."""
    assert SETTINGS["project"]["name"] == DISTRIBUTION
    foreign = re.compile(r"pip install.*[ '\"]ttc[\['\" ,;=].*|\bttc\[[a-z].*")
    assert not {str(path): found for path in TEXTS if (found := foreign.findall(path.read_text("utf-8")))}


def test_every_extra_that_is_named_exists() -> None:
    assert install("gpu", options="-U") == f"pip install -U '{DISTRIBUTION}[gpu]'"
    extras = set(SETTINGS["project"]["optional-dependencies"])
    in_text = re.compile(rf"(?:{DISTRIBUTION}|'\.)\[([a-z,-]+)\]")
    in_code = re.compile(r'(?:install|extra)\(("[a-z-]+"(?:, "[a-z-]+")*)\)')
    named = [
        names
        for path in TEXTS
        for rule in (in_text, in_code)
        for names in rule.findall(path.read_text("utf-8"))
    ]
    asked = {word for names in named for word in re.findall("[a-z-]+", names)}
    assert {"gpu", "export", "serve"} <= asked <= extras


def test_the_version_is_read_from_the_source() -> None:
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ttc.__version__"}
    assert f"## {ttc.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_setuptools(least: int) -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= least
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that the build leaves nothing behind here."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in ("ttc", *FOLDERS):
        shutil.copytree(
            ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    isolation = ["--no-build-isolation"] if has_setuptools(77) else []  # pip fetches one where it is missing
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", str(out), ".", cwd=copy)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = files_of_ttc()
    assert {"ttc/py.typed", "ttc/miniature/model.safetensors", "ttc/miniature/problems.jsonl"} <= set(files)
    assert {place for place in files if place.endswith(".toml")}, "no profile found"
    assert held == set(files)


def test_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"),
        *("--target", str(site), str(wheel)),
        cwd=elsewhere,
    )
    code = """
import importlib.resources, pkgutil, ttc
print(ttc.__file__)
assert ttc.load and ttc.Engine and ttc.Result
for name in ("config.json", "model.safetensors", "tokenizer.json"):
    assert importlib.resources.files("ttc").joinpath("miniature", name).is_file(), name
"""
    where = run(sys.executable, "-P", "-c", code, cwd=elsewhere, PYTHONPATH=str(site)).strip()
    assert Path(where).is_relative_to(site)
    version = run(sys.executable, "-P", "-m", "ttc", "--version", cwd=elsewhere, PYTHONPATH=str(site))
    assert ttc.__version__ in version
    assert (site / "bin" / "ttc").is_file()
    without_torch = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnxscript', 'transformers')));"
        "from ttc.cli import main; main()"
    )
    words = ("generate", "miniature", "--example", "sort")
    text = run(
        *(sys.executable, "-P", "-c", without_torch, *words),
        cwd=elsewhere,
        PYTHONPATH=str(site),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert text == " 11, 44, 61, 74.\n"
