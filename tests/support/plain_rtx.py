"""Plain TensorRT-RTX: parse an ONNX file and build it, as its Python samples do, with nothing of ttc between.

As a program it answers for one file after another: a line of JSON with `path`, `shapes` and `targets` on
standard input, a line of JSON with what became of it on standard output.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Plain", "plain_build"]


class Plain(NamedTuple):
    """What became of a file.

    `refused`: "" or why the library did not build it; `inputs` and `outputs`: name → shape, -1 where open, of
    the network that it parsed.
    """

    refused: str
    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]


def plain_build(path: Path, shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...] = ()) -> Plain:
    """Build a file. `shapes`: of inputs with open dimensions, or the values of those that decide shapes."""
    import tensorrt_rtx as trt

    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]  # untyped
        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        told = [parser.get_error(i).desc() for i in range(parser.num_errors)] + messages
        return Plain(f"parse: {told[0] if told else 'no reason'}", {}, {})
    inputs = {t.name: list(t.shape) for t in map(network.get_input, range(network.num_inputs))}
    outputs = {t.name: list(t.shape) for t in map(network.get_output, range(network.num_outputs))}
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        given = shapes.get(tensor.name, tuple(max(size, 1) for size in tensor.shape))
        if tensor.is_shape_tensor:
            given = shapes.get(tensor.name, (1,) * math.prod(given))
            profile.set_shape_input(tensor.name, given, given, given)
        elif -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, given, given, given)
    config.add_optimization_profile(profile)
    if targets:
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target.replace('.', '')}"), i)
    if builder.build_serialized_network(network, config) is None:
        return Plain(f"build: {messages[0] if messages else 'no reason'}", inputs, outputs)
    return Plain("", inputs, outputs)


def _answer() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        shapes = {name: tuple(sizes) for name, sizes in task["shapes"].items()}
        try:
            told = plain_build(Path(task["path"]), shapes, tuple(task["targets"]))
        except Exception as fault:
            told = Plain(f"{type(fault).__name__}: {fault}", {}, {})
        sys.stdout.write(json.dumps(told._asdict()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _answer()
