"""The programs of `examples/README.md` run, on the model that comes with the package."""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from examples import batch, http_service, stream

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_stream(capsys: pytest.CaptureFixture[str]) -> None:
    stream.main("miniature")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("block 0 done: ") for line in lines)
    assert lines[-1].endswith("passes of the denoiser")


def test_batch(capsys: pytest.CaptureFixture[str]) -> None:
    batch.main("miniature")
    modes = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert modes == ["diffusion", "lossless", "ar"]


def test_http_service() -> None:
    with TestClient(http_service.application("miniature")) as client:
        answer = client.post("/generate", json={"prompt": "Question: Sort 11, 61, 44, 74.\nAnswer:"})
        assert (answer.status_code, answer.text) == (200, " 11, 44, 61, 74.")
        assert client.post("/generate", json={"prompt": ""}).status_code == 400


def test_the_cells_of_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in content["cells"] if cell["cell_type"] == "code")
    names: dict[str, object] = {}
    for cell in cells:
        exec(cell, names)  # noqa: S102 - what a notebook does
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_every_program_is_listed() -> None:
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__init__.py", "__pycache__"):
            assert f"({path.name}" in told, path.name
