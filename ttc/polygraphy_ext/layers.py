"""A tower in a form that `polygraphy debug reduce` searches layer by layer, and what must come out of each.

    python -m ttc.polygraphy_ext.layers BUNDLE --graph denoiser -o FOLDER

writes FOLDER/layers.onnx, the tower with one node per layer (`ttc.exporter.passes.fold_layers`), and
FOLDER/golden.npz: inputs for it, and what the reference computes from them after every layer. Then

    polygraphy debug reduce FOLDER/layers.onnx -o wrong.onnx --no-reduce-inputs --ignore-fail-code 2 --check …

with `python -m ttc.polygraphy_ext.check polygraphy_debug.onnx --golden FOLDER/golden.npz` for the dots ends
at the first layer that is wrong: the last node of wrong.onnx, and its output.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ttc.errors import InputError, TtcError
from ttc.exporter.passes.fold_layers import fold_layers
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.model.bundle import Bundle
from ttc.model.graphs import is_kv_cache
from ttc.polygraphy_ext.inputs import GRAPHS, BundleInputs
from ttc.verify.backends import open_reference, tap_layers

__all__ = ["main", "write_layers"]


def write_layers(bundle: str, graph: str, folder: Path) -> None:
    """Write the two files into `folder`. Raises `InputError` for another graph than a tower, or where it
    cannot be written.
    """
    if graph not in GRAPHS:
        raise InputError(f"graph is {graph!r}; valid: {', '.join(GRAPHS)}")
    (feed,) = BundleInputs(bundle, graph)
    with Bundle.open(bundle) as opened:
        model = opened.read_graph(graph)
        outputs_of_layers = {layer: name for name, layer in tap_layers(model).items()}
        outputs = [value for value in model.graph.outputs if value.name not in outputs_of_layers.values()]
        model.graph.outputs[:] = outputs
        inline_ops(model)
        fold_layers(model)
        golden = _reference(opened, graph, feed, outputs_of_layers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ir.save(model, folder / "layers.onnx")
        arrays: dict[str, Any] = _keyed("in", feed) | _keyed("out", golden)
        np.savez(folder / "golden.npz", **arrays)
    except OSError as fault:
        raise InputError(f"{folder}: cannot be written ({fault.strerror}); choose another") from None


def _reference(
    bundle: Bundle, graph: str, feed: dict[str, npt.NDArray[Any]], outputs_of_layers: dict[int, str]
) -> dict[str, npt.NDArray[Any]]:
    reference = open_reference(bundle, "float32")
    backend = reference.backend
    caches = [array for name, array in feed.items() if is_kv_cache(name)]
    capacity = caches[0].shape[2] if caches else 0
    state = backend.write_state(capacity, feed["lengths"], feed)
    if graph == "denoiser":
        logits = backend.fetch(backend.denoise(state, feed["block_ids"], feed["t"]))
    else:
        call = backend.context(state, feed["input_ids"], feed["commit_len"], feed["logit_positions"])
        logits = backend.fetch(call.logits)
    found = {outputs_of_layers[layer]: array for layer, array in reference.residuals.items()}
    return found | {"logits": logits}


def _keyed(prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {f"{prefix}:{name}": array for name, array in arrays.items()}


def main() -> int:
    """Read the arguments, write the files."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--graph", choices=GRAPHS, default="denoiser")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        write_layers(given.bundle, given.graph, given.output)
    except TtcError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
