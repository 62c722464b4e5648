"""Polygraphy reads what we write, as far as no driver is needed."""

import pytest

from tests.support.commands import run_polygraphy as polygraphy

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")


@pytest.mark.parametrize("role", ["context", "denoiser", "step", "advance"])
def test_inspect_reads_every_graph(bundles, tmp_path, role):
    result = polygraphy("inspect", "model", bundles("tiny_a") / f"{role}.onnx", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Graph Input" in result.stdout


def test_convert_builds_an_engine(bundles, tmp_path):
    grouped = [word for end in ("min", "opt", "max") for word in _option(end)]
    result = polygraphy(
        "convert",
        bundles("tiny_a") / "step.onnx",
        "--convert-to",
        "trt",
        "-o",
        "step.engine",
        *grouped,
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert (tmp_path / "step.engine").stat().st_size > 0


def test_check_lints_our_graph(bundles, tmp_path):
    pytest.importorskip("onnx_graphsurgeon", reason="polygraphy check needs onnx-graphsurgeon")
    result = polygraphy("check", "lint", bundles("tiny_a") / "step.onnx", "-o", "lint.json", folder=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout


def _shapes(end):
    B, L = {"min": (1, 1), "opt": (1, 16), "max": (2, 32)}[end]
    rows = ("threshold", "temperature", "row_key", "position", "step", "steps_left")
    return {"logits": f"[{B},{L},128]", "block_ids": f"[{B},{L}]"} | dict.fromkeys(rows, f"[{B}]")


def _option(end):
    return [f"--trt-{end}-shapes", *(f"{name}:{dims}" for name, dims in _shapes(end).items())]
