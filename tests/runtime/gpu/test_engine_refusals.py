"""Engines on a fake device: what is refused, most of it before TensorRT is asked anything."""

import pytest

import ttc
from tests.support.fake_engines import changed_engines, write_engines
from ttc.errors import BackendError, BundleError, CapacityError, DigestError, InputError


def test_nothing_is_asked_of_tensorrt_before_the_checks(bundles, engine_folders, tmp_path, api):
    folder = changed_engines(engine_folders("tiny_a"), tmp_path, lambda c: None)
    engine = folder / "denoiser-00.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestError, match=r"denoiser-00\.engine: its content is not what was built"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    engine.write_bytes(engine.read_bytes()[:100])
    with pytest.raises(DigestError, match=r"denoiser-00\.engine: 100 bytes"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    engine.unlink()
    with pytest.raises(BundleError, match=r"denoiser-00\.engine: missing"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    assert not api.calls


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (lambda c: c.update(backend="tensorrt"), BackendError, "built for tensorrt, not for"),
        (
            lambda c: c.update(backend_version="1.6.9"),
            BackendError,
            r"built with .* 1\.6\.9, but 1\.7\.0\.1",
        ),
        (
            lambda c: c["sources"].update(denoiser="0" * 64),
            BundleError,
            "its denoiser was built from another",
        ),
        (lambda c: c["sources"].pop("step"), BundleError, "no engine for step; build again"),
        (lambda c: c["sources"].update(other="0" * 64), BundleError, "a graph 'other' that"),
        (
            lambda c: c.update(compute_dtype="bfloat16"),
            BundleError,
            "built for bfloat16, the",
        ),
        (lambda c: c["programs"].pop("context"), BundleError, "no program for context; build again"),
        (lambda c: c["profile"].update(batch={"min": 2}), BundleError, "profile: batch is .*build again"),
    ],
)
def test_engines_of_something_else_are_refused(
    bundles, engine_folders, tmp_path, api, change, error, complaint
):
    folder = changed_engines(engine_folders("tiny_a"), tmp_path, change)
    with pytest.raises(error, match=complaint):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    assert not api.calls


def test_without_a_driver(bundles, engine_folders, api):
    """The checks pass; then a machine without a GPU says so."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*or use backend 'onnxruntime'"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a"))
    assert not api.calls


def test_no_engines_at_all(bundles):
    with pytest.raises(BundleError, match=r"engines/engines\.json: missing; .*`ttc build`"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx")


def test_settings_that_mean_nothing(bundles, engine_folders):
    bundle, engines = bundles("tiny_a"), engine_folders("tiny_a")
    with pytest.raises(InputError, match="backend 'onnxruntime' runs no engines; leave out engines"):
        ttc.load(bundle, engines=engines)
    with pytest.raises(InputError, match="has no CUDA graphs"):
        ttc.load(bundle, graph_level=2)
    with pytest.raises(InputError, match="threads is for backend 'onnxruntime'"):
        ttc.load(bundle, "tensorrt", threads=2)
    with pytest.raises(InputError, match="device is 'cpu'; backend 'tensorrt' runs on cuda"):
        ttc.load(bundle, "tensorrt", "cpu")


def test_beyond_what_the_engines_were_built_for(bundles, engine_folders, fake_gpu):
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")) as engine:
        with pytest.raises(InputError, match=r"a batch of 5; the engines were built for 1 to 4"):
            engine.generate([[5, 6]] * 5, max_new_tokens=8)
        with pytest.raises(InputError, match=r"a block of 32 tokens; the engines were built for 1 to 16"):
            engine.generate([5, 6], max_new_tokens=8, block_size=32)
        with pytest.raises(CapacityError, match=r"142 tokens are due, .* a capacity of 16 to 128"):
            engine.generate([5, 6], max_new_tokens=140)
        with pytest.raises(InputError, match=r"a block of 17 tokens"):
            engine.denoiser_logits([5], [3] * 17, 0.5)
        # More positions than an engine gives at once, and a prompt longer than it reads at once.
        assert engine.context_logits(list(range(3, 43))).shape[0] == 40
        assert engine.generate([5, 6], mode="mock-ar", max_new_tokens=3).token_ids


def test_engines_that_give_whole_caches_are_refused(bundles, tmp_path, fake_gpu, monkeypatch):
    """What an older `ttc build` made."""
    monkeypatch.setattr("ttc.exporter.engines.build_input.caches_to_new_kv", lambda model: False)
    for form in ("cut", "whole"):
        folder = write_engines(bundles("tiny_a"), tmp_path / form, form)
        with (
            ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder) as engine,
            pytest.raises(BundleError, match=r"build .*again"),
        ):
            engine.generate([5, 6], max_new_tokens=8)


@pytest.mark.parametrize("call", ["deserialize", "set_input_shape", "execute"])
def test_an_engine_that_refuses_is_named(bundles, engine_folders, fake_gpu, api, call):
    api.refuse = call
    with pytest.raises(BackendError, match=r"engine (context|denoiser|step|advance)-\d\d"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")).generate(
            [5, 6], max_new_tokens=16
        )
    if call == "deserialize":
        assert not fake_gpu.blocks
        assert fake_gpu.closed
