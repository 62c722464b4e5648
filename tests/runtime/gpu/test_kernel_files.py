"""Kernels that TensorRT-RTX made are shared by contexts, and kept for this user's next process."""

import logging

import numpy as np
import pytest

import ttc
from ttc.base.user_cache import user_cache
from ttc.runtime.gpu.kernel_files import KernelFile


@pytest.fixture
def kept(api, monkeypatch, tmp_path):
    """The folder of kept kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ttc" / "kernels"


def steps(bundles, engine_folders):
    """Load cut engines, compute with two sizes of state, close."""
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")) as engine:
        backend, place = engine.runner, np.zeros((1, 1), np.int32)
        for capacity in (32, 64):
            state = backend.new_state(1, capacity)
            backend.context(state, np.array([[5, 6, 7, 8]], np.int32), np.array([4], np.int32), place)


def test_contexts_share_kernels_and_the_next_process_finds_them(bundles, engine_folders, fake_gpu, api, kept):
    steps(bundles, engine_folders)
    assert api.calls.count("cache") == 1, "one for all contexts"
    assert 0 < api.calls.count("kernels") < api.calls.count("context")
    (file,) = kept.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert kept.stat().st_mode & 0o777 == 0o700
    api.calls.clear()
    steps(bundles, engine_folders)
    assert api.calls.count("kernels") == 0
    assert [*kept.iterdir()] == [file]


def test_what_the_library_refuses_is_made_again(bundles, engine_folders, fake_gpu, api, kept):
    steps(bundles, engine_folders)
    (file,) = kept.iterdir()
    content = file.read_bytes()
    file.write_bytes(b"of another driver")
    api.refuse = "deserialize kernels"
    steps(bundles, engine_folders)
    assert file.read_bytes() == content


def test_what_others_can_write_is_not_read(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = KernelFile.of(["digest"], "1.7", "12.0")
    assert file.path.parent == user_cache("kernels")
    assert file.read() is None
    file.write(b"kernels")
    assert file.read() == b"kernels"
    for path, mode in ((file.path, 0o660), (file.path.parent, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        with caplog.at_level(logging.WARNING):
            assert file.read() is None
        assert f"{path}: may be written to by others (make it yours with chmod go-w), so kept" in caplog.text
        path.chmod(before)
        caplog.clear()
    monkeypatch.setattr("os.geteuid", lambda: 12345)  # as after seteuid: the real user is who it was
    with caplog.at_level(logging.WARNING):
        assert file.read() is None
    assert "belongs to another user (number" in caplog.text
    monkeypatch.undo()
    link = file.path.with_name("link")
    link.symlink_to(file.path)
    assert KernelFile(link).read() is None


def test_a_file_is_of_its_engines(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kinds = [(["a", "b"], "1.7", "12.0"), (["a"], "1.7", "12.0"), (["a", "b"], "1.8", "12.0")]
    kinds.append((["a", "b"], "1.7", "8.9"))
    assert len({KernelFile.of(*kind).path for kind in kinds}) == 4
    assert KernelFile.of(["b", "a"], "1.7", "12.0").path == KernelFile.of(*kinds[0]).path


def test_nowhere_to_keep_them(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        KernelFile(tmp_path / "file" / "x.kernels").write(b"kernels")
        (tmp_path / "other").write_text("")
        KernelFile(tmp_path / "other" / "x.kernels").write(b"kernels")
    assert caplog.text.count("kernels are not kept") == 1
    assert (tmp_path / "file" / "x.kernels").read_bytes() == b"kernels"
