"""The miniature that comes with the package: what it is, where it is found, and that it needs no torch."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ttc
from examples.miniature.bundle import exported
from tests.support.command_line import ROOT, ask, run
from tests.support.torch_tables import share_translations
from ttc.demo.examples import EXAMPLES, example
from ttc.formats import shipped
from ttc.formats.manifest import MANIFEST_FILE, Manifest

STORED = ROOT / "ttc" / "miniature" / "bundle"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_bundle_in_the_package_is_what_export_writes_today() -> None:
    """To write it anew: make miniature."""
    share_translations()
    stored = {path.name: path.read_bytes() for path in STORED.iterdir()}
    made = exported()
    kept, new = (Manifest.from_json(files.pop(MANIFEST_FILE)) for files in (stored, made))
    for field in ("ttc_version", "source", "model", "compute_dtype", "graphs", "ops", "weights"):
        assert getattr(kept, field) == getattr(new, field), field
    if kept.created_by == new.created_by:
        assert kept.files == new.files
        assert stored == made
    else:  # other releases of torch may write the same graph otherwise, but with the same inputs and outputs
        assert stored.keys() == made.keys()
        for name in stored:
            assert signature(stored[name]) == signature(made[name]), name


def signature(raw: bytes) -> list[str]:
    import onnx

    graph = onnx.load_from_string(raw).graph
    return sorted(f"{value.name} {value.type}" for value in (*graph.input, *graph.output))


def test_the_versions_of_the_export_are_known() -> None:
    manifest = Manifest.from_json((STORED / MANIFEST_FILE).read_bytes())
    assert set(manifest.created_by) == {"torch", "onnx", "onnx-ir", "onnxscript", "numpy"}
    assert version("torch")


def test_it_is_found_by_its_name_and_a_folder_of_that_name_comes_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, mini: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Path(shipped.find_bundle("miniature"))
    assert found.is_relative_to(cache)
    assert shipped.find_bundle("miniature") == found, "the second time nothing is written"
    assert shipped.find_checkpoint("miniature") == ROOT / "ttc" / "miniature"
    assert shipped.find_bundle("./miniature") == "./miniature"
    with ttc.load("miniature") as engine:
        assert engine.generate(example("sort"), max_new_tokens=32).text == " 11, 44, 61, 74."
    done = run("generate", "miniature", "5", "--token-ids", "--max-new-tokens", 1)
    assert "miniature: the model that comes with ttc" in done.stderr
    (tmp_path / "miniature").symlink_to(mini)
    assert shipped.find_bundle("miniature") == "miniature"
    done = run("generate", "miniature", "5", "--token-ids", "--max-new-tokens", 1)
    assert "miniature: what lies here, not the model that comes with ttc" in done.stderr
    assert "the bundle's bfloat16 graphs" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "miniature"),
        ("plan", "miniature"),
        ("quantize", "miniature", "--experts", "int8", "--dry-run"),
        ("bench", "miniature", "--limit", "2", "--timed", "1", "--repeats", "1", "--max-new-tokens", "8"),
        ("profile", "miniature", "--repeats", "1"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_takes_the_name(words: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask(*words)
    assert not list(tmp_path.glob("[!c]*")), "nothing but the cache is written"


def test_another_bundle_is_told_apart_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has nothing to do with the miniature gets no copy of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not shipped.is_shipped_bundle(tmp_path / "miniature.bundle")
    assert list(tmp_path.iterdir()) == []
    assert shipped.is_shipped_bundle(shipped.shipped_bundle())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ttc.InputError, match="set XDG_CACHE_HOME to a folder that can"):
        shipped.shipped_bundle()


@pytest.mark.skipif(os.name != "posix", reason="needs users and modes")
@pytest.mark.parametrize("depth", [0, 1, 2], ids=["the cache", "its folder", "the bundle"])
def test_what_others_may_have_put_there_is_not_taken(depth: int, cache: Path, tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        bundle = shipped.shipped_bundle()
    finally:
        os.umask(before)
    place = [bundle.parent.parent, bundle.parent, bundle][depth]
    assert place.stat().st_mode & 0o022 == 0
    if not depth:
        assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    refusal = "so the miniature is not taken from there; delete it, or set XDG_CACHE_HOME"
    with pytest.raises(ttc.InputError, match=rf"{place.name}: may be written to by others .*, {refusal}"):
        shipped.shipped_bundle()
    place.chmod(0o755)
    assert shipped.shipped_bundle() == bundle
    place.rename(tmp_path / "planted")
    place.symlink_to(tmp_path / "planted")
    if depth:
        with pytest.raises(ttc.InputError, match=rf"{place.name}: is a symbolic link, {refusal}"):
            shipped.shipped_bundle()
    else:
        assert shipped.shipped_bundle() == bundle, "a link of one's own to another disk"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize("depth", [0, 1, 2], ids=["the cache", "its folder", "the bundle"])
def test_what_somebody_else_owns_is_not_taken(depth: int, cache: Path) -> None:
    bundle = shipped.shipped_bundle()
    place = [bundle.parent.parent, bundle.parent, bundle][depth]
    os.chown(place, 65534, 65534)
    with pytest.raises(
        ttc.InputError, match=rf"{place.name}: belongs to another user \(number 65534\), so the"
    ):
        shipped.shipped_bundle()
    assert "belongs to another user" in run("generate", "miniature", "5", "--ids").stderr


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples(kind: str) -> None:
    assert example(kind).startswith("Question: ")
    assert example(kind).endswith("\nAnswer:")


def test_text_without_torch(tmp_path: Path) -> None:
    """As a command, where nothing of the export is installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnxscript', 'transformers')));"
        "from ttc.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "generate", "miniature", "--example", "story", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].startswith(" Mona has ")
