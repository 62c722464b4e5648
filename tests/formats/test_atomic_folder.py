"""Writing a bundle: whole or not at all, never over something else, and nothing left behind."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ttc.errors import BundleError, InputError
from ttc.formats.atomic_folder import FolderDraft, bundle_writer
from ttc.formats.manifest import Manifest, WeightMap
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig

MODEL = ModelConfig.from_hf(
    {
        "hybrid_override_pattern": "-",
        "hidden_size": 8,
        "vocab_size": 16,
        "layer_norm_epsilon": 1e-5,
        "intermediate_size": 4,
        "max_position_embeddings": 64,
        "torch_dtype": "float32",
    }
)
GRAPHS = {role: f"{role}.onnx" for role in ("context", "denoiser", "step")}
MANIFEST = Manifest("0.1.0", {}, {}, MODEL.to_dict(), "float32", GRAPHS, {}, WeightMap("packed", {}))


def fill(draft: FolderDraft, text: str = "graph") -> None:
    for file in GRAPHS.values():
        (draft.path / file).write_text(text)


def write(destination: Path, text: str = "graph", force: bool = False) -> Path:
    with bundle_writer(destination, force=force) as draft:
        fill(draft, text)
        return draft.commit(MANIFEST)


def content(bundle: Path) -> str:
    with Bundle.open(bundle) as opened:
        return opened.graph_path("context").read_text()


def test_appears_whole(tmp_path: Path) -> None:
    destination = tmp_path / "bundle"
    with bundle_writer(destination) as draft:
        assert draft.path.parent == tmp_path
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "more.onnx.data").write_text("more")
        fill(draft)
        assert not destination.exists()
        assert draft.commit(MANIFEST) == destination
    assert os.listdir(tmp_path) == ["bundle"]
    with Bundle.open(destination) as bundle:
        assert set(bundle.manifest.files) == {*GRAPHS.values(), "sub/more.onnx.data"}


def test_relative_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write(Path("bundle")) == tmp_path / "bundle"
    assert write(Path("other/../second/"), force=True) == tmp_path / "second"


def test_nothing_stays_after_an_exception(tmp_path: Path) -> None:
    def fail(fault: BaseException) -> None:
        with bundle_writer(tmp_path / "bundle") as draft:
            fill(draft)
            raise fault

    for fault in (ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(fault)):
            fail(fault)
        assert os.listdir(tmp_path) == []


def test_nothing_stays_without_a_commit(tmp_path: Path) -> None:
    with bundle_writer(tmp_path / "bundle") as draft:
        fill(draft)
    assert os.listdir(tmp_path) == []


def test_nothing_stays_after_a_refused_commit(tmp_path: Path) -> None:
    def commit(change: str) -> None:
        with bundle_writer(tmp_path / "bundle") as draft:
            fill(draft)
            if change == "link":
                (draft.path / "tokenizer.json").symlink_to(__file__)
            elif change == "missing":
                (draft.path / "step.onnx").unlink()
            draft.commit(
                dataclasses.replace(MANIFEST, compute_dtype="int3" if change == "dtype" else "float32")
            )

    for change, message in (
        ("link", "symbolic link"),
        ("missing", "'step.onnx' is not among the files"),
        ("dtype", "compute_dtype is 'int3'"),
    ):
        with pytest.raises(BundleError, match=message):
            commit(change)
        assert os.listdir(tmp_path) == []


def test_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match="bundle: cannot be written: No space left on device"),
        bundle_writer(tmp_path / "bundle"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_existing_output(tmp_path: Path) -> None:
    destination = write(tmp_path / "bundle", "old")
    with pytest.raises(InputError, match=r"bundle: exists already; .*--force"):
        write(destination, "new")
    assert content(destination) == "old"
    assert write(destination, "new", force=True) == destination
    assert content(destination) == "new"
    assert os.listdir(tmp_path) == ["bundle"]


def test_force_replaces_a_damaged_bundle_and_engines(tmp_path: Path) -> None:
    destination = write(tmp_path / "bundle", "old")
    manifest = destination / "bundle.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    (destination / "engines").mkdir()
    (destination / "engines" / "x.engine").write_text("x")
    write(destination, "new", force=True)
    assert content(destination) == "new"
    assert not (destination / "engines").exists()


def test_force_keeps_the_old_bundle_until_the_new_one_is_there(tmp_path: Path) -> None:
    destination = write(tmp_path / "bundle", "old")

    def fail() -> None:
        with bundle_writer(destination, force=True) as draft:
            fill(draft)
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert content(destination) == "old"
    assert os.listdir(tmp_path) == ["bundle"]


def test_force_never_replaces_anything_else(tmp_path: Path) -> None:
    home, file, link, foreign = (tmp_path / name for name in ("home", "file", "link", "foreign"))
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    file.write_text("x")
    write(foreign)
    (foreign / "notes.txt").write_text("mine")
    link.symlink_to(write(tmp_path / "target"))
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "bundle.json").write_text('{"format": "something-else"}')
    unmarked = tmp_path / "unmarked"
    unmarked.mkdir()
    (unmarked / "model.onnx").write_text("x")
    before = sorted(os.listdir(tmp_path))
    for target, message in (
        (home, "holds 'letter.txt', which is no part of a bundle"),
        (file, "not a folder"),
        (link, "not a folder"),
        (foreign, "holds 'notes.txt'"),
        (fake, "has no bundle.json of a bundle"),
        (unmarked, "has no bundle.json of a bundle"),
    ):
        with pytest.raises(InputError, match=message):
            write(target, force=True)
    assert sorted(os.listdir(tmp_path)) == before
    assert (home / "letter.txt").read_text() == "dear"
    assert (foreign / "notes.txt").read_text() == "mine"


def test_empty_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path / "bundle")
    assert content(write(tmp_path / "bundle", force=True)) == "graph"


def test_unwritable_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for parent in ("file", "none"):
        with pytest.raises(InputError, match=f"bundle: cannot be written: .*{parent} is not a folder"):
            write(tmp_path / parent / "bundle")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"bundle: cannot be written \(Permission denied\)"):
        write(tmp_path / "bundle")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
            write(tmp_path / "bundle")
    finally:
        tmp_path.chmod(0o700)


def test_two_writers_at_once(tmp_path: Path) -> None:
    """Both write all their files before either commits; one wins whole, the other is refused."""
    barrier = threading.Barrier(2, timeout=30)
    outcomes: list[str] = []

    def run(text: str) -> None:
        try:
            with bundle_writer(tmp_path / "bundle") as draft:
                fill(draft, text)
                barrier.wait()
                draft.commit(MANIFEST)
            outcomes.append(text)
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) in (["one", "refused"], ["refused", "two"])
    assert content(tmp_path / "bundle") in outcomes
    assert os.listdir(tmp_path) == ["bundle"]


def test_killed_export_is_swept_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ttc.formats.atomic_folder import bundle_writer\n"
        "with bundle_writer(sys.argv[1]) as draft:\n"
        "    (draft.path / 'context.onnx').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bundle")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # Alive: another writer to the same destination leaves it alone.
        with bundle_writer(tmp_path / "bundle"):
            assert len(os.listdir(tmp_path)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [name.startswith(".bundle.ttc-tmp-") for name in os.listdir(tmp_path)] == [True]
    other = tmp_path / ".bundle2.ttc-tmp-1-00000000"
    other.mkdir()
    write(tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path)) == [other.name, "bundle"]


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_old_bundle_is_put_back_when_its_replacement_never_came(tmp_path: Path) -> None:
    destination = write(tmp_path / "bundle", "old")
    destination.rename(tmp_path / f".bundle.ttc-old-{dead_process()}-0123abcd")
    with pytest.raises(InputError, match="exists already"):
        write(destination, "new")
    assert content(destination) == "old"
    assert os.listdir(tmp_path) == ["bundle"]


def test_old_bundle_is_swept_once_replaced(tmp_path: Path) -> None:
    destination = write(tmp_path / "bundle", "old")
    (tmp_path / f".bundle.ttc-old-{dead_process()}-0123abcd").mkdir()
    write(destination, "new", force=True)
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_living_writer_is_not_swept_whatever_its_process_number_says(tmp_path):
    """In containers that share a disk the same number means different processes: only the lock counts."""
    destination = tmp_path / "bundle"
    with bundle_writer(destination) as first:
        (first.path / "one.onnx").write_bytes(b"1")
        renamed = first.path.with_name(
            ".bundle.ttc-tmp-1-0123abcd"
        )  # a number that is alive, or not: no matter
        first.path.rename(renamed)
        with bundle_writer(destination):
            pass
        assert renamed.is_dir(), "locked: somebody is writing it"
    with bundle_writer(destination):
        assert not renamed.exists(), "nobody holds it any more"


def test_a_leftover_under_our_own_process_number_is_swept(tmp_path):
    """A container's first process has the same number every time."""
    leftover = tmp_path / f".bundle.ttc-tmp-{os.getpid()}-0123abcd"
    leftover.mkdir()
    with bundle_writer(tmp_path / "bundle"):
        assert not leftover.exists()


def test_a_staging_folder_that_is_deleted_meanwhile_is_told(tmp_path):
    def write():
        with bundle_writer(tmp_path / "bundle") as draft:
            shutil.rmtree(draft.path)
            (draft.path / "context.onnx").write_bytes(b"")

    with pytest.raises(BundleError, match="was deleted meanwhile"):
        write()
