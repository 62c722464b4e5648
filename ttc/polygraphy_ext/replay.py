"""Inputs and outputs on disk, in Polygraphy's own format, in both directions.

What `polygraphy run --save-inputs F` wrote, `replay` runs on a backend of ours; what `save_inputs` and
`replay` write, `polygraphy run --load-inputs` and `--load-outputs` take.
"""

import os
from collections.abc import Iterator
from typing import Any

from polygraphy.comparator import IterationResult, RunResults
from polygraphy.json import load_json, save_json

from ttc.errors import InputError
from ttc.polygraphy_ext.inputs import BundleInputs
from ttc.polygraphy_ext.runners import TowerRunner

__all__ = ["load_inputs", "replay", "save_inputs"]

Path = str | os.PathLike[str]


def save_inputs(bundle: Path, graph: str, path: Path, iterations: int = 1, seed: int = 1) -> None:
    """Write inputs for one graph of a bundle to a JSON file for `--load-inputs`."""
    save_json(list(BundleInputs(os.fspath(bundle), graph, iterations, seed)), os.fspath(path))


def load_inputs(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the sets of inputs in a file that `--save-inputs` or `save_inputs` wrote; `InputError` for
    another.
    """
    try:
        content = load_json(os.fspath(path))
    except Exception as fault:  # Polygraphy and the JSON library raise each their own
        raise InputError(f"{path}: no inputs saved by Polygraphy ({fault})") from None
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise InputError(f"{path}: a list of inputs is expected, as `polygraphy run --save-inputs` writes it")
    yield from content


def replay(bundle: Path, graph: str, inputs: Path, outputs: Path, backend: str = "onnxruntime") -> RunResults:
    """Run saved inputs through a tower on a backend, and save what comes out for `--load-outputs`.

    backend: as `ttc.load` knows it, or "reference".
    """
    results = []
    with TowerRunner(os.fspath(bundle), graph, backend) as runner:
        for feed in load_inputs(inputs):
            made = runner.infer(feed)
            results.append(IterationResult(outputs=made, runtime=runner.last_inference_time()))
        found = RunResults([(runner.name, results)])
    found.save(os.fspath(outputs))
    return found
