"""How many launches a step takes in torch at the real size, counted without a GPU.

    python -m benchmarks.launches [-o FILE]

A step of one row costs its weights' bytes and, on top, something for every launch, also inside a CUDA graph.
Here the torch executor runs on tensors that have a shape and no memory: what torch would compute or copy
counts one launch, a view none, an op of `ttc` as many as it has kernels. A matrix product counts one, though
cuBLAS may split it into two.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.export_real_size import CONFIG
from benchmarks.gpu_reckoning import BLOCK, weight_shapes
from ttc.base.dims import sizes_of
from ttc.base.files import write_whole
from ttc.bench.record_file import record_file
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, DENOISER, joined_projections
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import launches_of
from ttc.plugins.ops import OpSpec
from ttc.plugins.torch_tensors import dtype_names, logical_shapes
from ttc.runtime.backends.torch.executor import TorchExecutor
from ttc.runtime.gpu.device import Device
from ttc.runtime.gpu.executor import (
    CONTEXT_INPUTS,
    DENOISER_INPUTS,
    POOL_INPUTS,
    SAMPLING_INPUTS,
    SAMPLING_OUTPUTS,
    STEP_INPUTS,
    STEP_OUTPUTS,
    Specs,
    mamba_specs,
    page_specs,
)
from ttc.runtime.gpu.row_pool import PAGE

DTYPE, CAPACITY = "bfloat16", 2048
# Name → graph, its tower, tokens, and the role that then chooses some; None: no logits are wanted.
STEPS: Mapping[str, tuple[str, str, int, str | None]] = {
    "denoise": ("denoiser", DENOISER, BLOCK, "step"),
    "ar": ("context", CONTEXT, 1, "sample"),
    "extend": ("context", CONTEXT, BLOCK, None),
}


def main() -> None:
    """Count; print a JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=record_file, help="also write the JSON to this file")
    options = parser.parse_args()
    config = ModelConfig.from_hf(CONFIG)
    result = {
        "command": " ".join(["python", "-m", "benchmarks.launches", *sys.argv[1:]]),
        "torch": torch.__version__,
        "layers": Counter(config.pattern),
        "steps": {name: step_launches(config, name) for name in STEPS},
    }
    text = json.dumps(result, indent=1)
    if options.output:
        write_whole(options.output, text + "\n")
    print(text)


class Launches(TorchDispatchMode):
    """Counts what would be launched while it is entered.

    Attributes:
        torch: operator → launches.
        kernels: op of `ttc` → launches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.torch, self.kernels = Counter[str](), Counter[str]()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not _is_free(func):
            self.torch[str(func.overloadpacket)] += 1
        return func(*args, **kwargs or {})

    def run_op(
        self, op: OpSpec, *inputs: Tensor, out: Sequence[Tensor | None] | None = None, **attributes: Any
    ) -> tuple[Tensor, ...]:
        """Return outputs of an op without computing them."""
        dims = op.dims(logical_shapes(op, inputs), attributes)
        for name in launches_of(op, dims, KERNELS):
            self.kernels[name] += 1
        words = op.words(dtype_names(op, inputs))
        shapes = op.output_shapes(logical_shapes(op, inputs), attributes)
        made = (
            torch.empty(shape, dtype=getattr(torch, spec.dtype_in(words)), device=inputs[0].device)
            for spec, shape in zip(op.outputs, shapes, strict=True)
        )
        return tuple(
            b if a is None else a for a, b in zip(out or [None] * len(op.outputs), made, strict=True)
        )

    @property
    def total(self) -> int:
        """Launches so far."""
        return self.torch.total() + self.kernels.total()


def step_launches(config: ModelConfig, step: str) -> dict[str, Any]:
    """Return launches of one step of one row: in all, by whom, in a layer of each kind, outside of layers.

    Those of the choice of tokens are counted apart.
    """
    role, tower, length, choice = STEPS[step]
    launches = Launches()
    weights = {name: _meta(*spec) for name, spec in weight_shapes(config, tower).items()}
    for whole, parts in joined_projections(config, tower).items():
        weights[whole] = torch.cat([weights[name] for name in parts])
    executor = _executor(config, weights, tower, launches)
    tensors = _tensors(config, role, length, wants_tokens=choice is not None)
    after_layer: list[int] = []
    executor.record = lambda layer, x: after_layer.append(launches.total)
    with torch.no_grad(), launches:  # inference mode would show operators whole that launch several kernels
        executor.compute(role, tensors, captured=True)
    by_kind: dict[str, int] = {}
    for i, kind in enumerate(config.layers):
        if i:  # the first has the embedding before it
            by_kind.setdefault(str(kind), after_layer[i] - after_layer[i - 1])
    inside = sum(by_kind[str(kind)] for kind in config.layers)
    choosing = Launches()
    executor = _executor(config, weights, tower, choosing)
    if choice is not None:
        with torch.no_grad(), choosing:
            executor.compute(choice, _choice_tensors(choice, tensors["logits"]), captured=True)
    return {
        "launches": launches.total,
        "kernels": launches.kernels.total(),
        "torch": launches.torch.total(),
        "in_a_layer": by_kind,
        "outside_of_layers": launches.total - inside,
        "choice": choosing.total,
        "products": sum(launches.torch[name] for name in ("aten.mm", "aten.addmm", "aten.bmm")),
        "by_operator": dict(launches.torch.most_common()),
    }


def _executor(
    config: ModelConfig, weights: Mapping[str, Tensor], tower: str, launches: Launches
) -> TorchExecutor:
    # It asks the device for views of memory, of which there is none here.
    device = cast(Device, None)
    return TorchExecutor(config, device, weights, DTYPE, launches.run_op, None, used=(tower,), takes_out=True)


def _tensors(config: ModelConfig, role: str, length: int, *, wants_tokens: bool) -> dict[str, Tensor]:
    specs: dict[str, Any] = dict(CONTEXT_INPUTS if role == "context" else DENOISER_INPUTS) | POOL_INPUTS
    # A pool of the row and the scratch row.
    specs |= mamba_specs(config, DTYPE, 2) | page_specs(config, DTYPE, 2 + CAPACITY // PAGE)
    conv = next(shape for name, (_, shape) in mamba_specs(config, DTYPE, 2).items() if "conv" in name)
    specs["conv_states"] = (DTYPE, (len(config.layers_of(LayerKind.MAMBA)), *conv))
    if not wants_tokens:
        del specs["logit_positions"]
    else:
        positions = 1 if role == "context" else length
        specs["logits"] = (DTYPE, (1, positions, config.vocab_size))
    sizes = {"B": 1, "L": length, "R": 1, "M": CAPACITY // PAGE}
    return {name: _meta(dtype, sizes_of(shape, sizes)) for name, (dtype, shape) in cast(Specs, specs).items()}


def _choice_tensors(role: str, logits: Tensor) -> dict[str, Tensor]:
    specs: Specs = STEP_INPUTS | STEP_OUTPUTS if role == "step" else SAMPLING_INPUTS | SAMPLING_OUTPUTS
    sizes = dict.fromkeys("LR", logits.shape[1]) | {"B": 1}
    made = {name: _meta(dtype, sizes_of(shape, sizes)) for name, (dtype, shape) in specs.items()}
    return {"logits": logits} | made


def _meta(dtype: str, shape: Sequence[int]) -> Tensor:
    return torch.empty(*shape, dtype=getattr(torch, dtype), device="meta")


def _is_free(func: Any) -> bool:
    """Return whether an operator launches nothing: it makes a view, or memory that nobody has written."""
    aliases = [result.alias_info for result in func._schema.returns]  # noqa: SLF001  # torch shows it nowhere else
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    return is_view or "empty" in func.name() or func.name() in ("aten::_unsafe_view", "aten::detach")


if __name__ == "__main__":
    main()
