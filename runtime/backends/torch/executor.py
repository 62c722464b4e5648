"""The towers in torch over buffers at fixed addresses: on CUDA with the Triton kernels, ready for capture.

They are those of `ttc.model.fused_towers`, which take the fewest launches.

torch gets its scratch memory from a pool of its own. The first, uncaptured run of any work fills that pool,
so that a capture, on the same stream, finds there what it needs (torch's allocator keeps memory by stream);
all works share it, since they run one after another. Whether a capture did without new memory is checked
(`scratch`); that torch works inside a loop's graph has not been tried on a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttc.base.dtypes import is_packed
from ttc.errors import BackendError
from ttc.model import fused_towers, towers
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.fused_towers import WriteBlock
from ttc.model.graphs import SAVED_NAMES, is_kv_cache, layer_names, new_kv_name, new_name, numbered
from ttc.model.mixers import LayerState, RunOp
from ttc.model.places import Dense, Place, Pooled
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.mamba_mixer import MAMBA_LONG_MIXER, MAMBA_MIXER
from ttc.plugins.ops import OpSpec
from ttc.plugins.page_write import PAGE_WRITE
from ttc.plugins.page_write.naive import write_pages
from ttc.plugins.split_predict import SPLIT_CHOICE, SPLIT_COMMIT, SPLIT_PREDICT, splits
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.executor import UNUSED_MASK_ID, Executor, page_name
from ttc.runtime.gpu.row_pool import SCRATCH

__all__ = ["TorchExecutor", "view_of"]

Tensors = Mapping[str, Tensor]
# Op → for every output the input that it is written over, None where there is none: what may be written
# again if the call is repeated, and what may not.
_OVER_PAGES = {PAGE_WRITE.name: ("key_pages", "value_pages")}
_OVER_OLD_STATE = _OVER_PAGES | dict.fromkeys(
    (MAMBA_MIXER.name, MAMBA_LONG_MIXER.name), (None, None, "ssm_state")
)


class TorchExecutor(Executor):
    """Computes the graphs by the towers in torch.

    In a pool, pages get a block's keys and values when their layer has read them; they count only when the
    row's length says so. A row's Mamba state is overwritten after all layers, so that a call for which memory
    runs short can be made again from the old state; but what goes into a graph has its memory, and there the
    kernel writes over the old scan state at once. `record`, where set, sees every layer's residual stream.

    Args:
        weights: checkpoint name → weight on the device.
        run_op: computes the ops of `ttc`.
        takes_out: whether `run_op` can be told where outputs go, with `out`.
        capture_problem: as `Executor` has it.
        weight_scope: memory of the weights, closed with the executor.
        used: the towers that there are weights of.
        pooled: as `Executor` has it; False where another GPU needs what changed too.
    """

    name = "torch"
    saves_on_demand = True
    skips_logits = True

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        weights: Mapping[str, Tensor],
        compute_dtype: str,
        run_op: RunOp,
        capture_problem: str | None,
        notes: Sequence[str] = (),
        weight_scope: Scope | None = None,
        used: Sequence[str] = (CONTEXT, DENOISER),
        pooled: bool = True,
        takes_out: bool = False,
    ) -> None:
        self.compute_dtype = self.logits_dtype = compute_dtype
        self.notes = tuple(notes)
        self.capture_problem, self.pooled = capture_problem, pooled
        self._config, self._device, self._run_op, self._takes_out = config, device, run_op, takes_out
        self._weight_scope = weight_scope
        self.record: towers.Record | None = None
        self._loaded: set[tuple[Any, ...]] = set()
        self._towers = {tower: TowerWeights.of(config, tower, weights) for tower in used}
        self._where = next(iter(weights.values())).device
        self._pool = None
        if self._where.type == "cuda":
            if torch.cuda.get_allocator_backend() != "native":
                self.capture_problem = "torch's asynchronous allocator would allocate inside the graphs"
            with torch.cuda.device(self._where):
                self._pool = torch.cuda.MemPool()

    def bind(
        self, scope: Scope, role: str, tensors: Mapping[str, DeviceArray], sizes: Mapping[str, int]
    ) -> Enqueue:
        if not self._towers:
            raise BackendError("the engine is closed; load the bundle again")
        views = {name: view_of(self._device, array) for name, array in tensors.items()}

        def launch(stream: int, captured: bool) -> None:
            with torch.inference_mode(), self._on(stream):
                self.compute(role, views, captured=captured)

        return lambda: self._device.enqueue(partial(launch, captured=self._device.capturing))

    def compute(self, role: str, tensors: Tensors, *, captured: bool) -> None:
        """Compute the graph `role` on these tensors now; benchmarks count what that launches.

        captured: it goes into a graph, and memory for it is there.
        """
        run_op = self._run_op
        if self.pooled and self._takes_out:
            run_op = partial(self._over_inputs, _OVER_OLD_STATE if captured else _OVER_PAGES)
        run: Mapping[str, Callable[[Tensors], None]] = {
            "context": lambda a: self._context(a, run_op),
            "denoiser": self._denoiser,
            "step": lambda a: self._choose(SPLIT_COMMIT, a, self._config.mask_token_id),
            "sample": lambda a: self._choose(SPLIT_CHOICE, a, UNUSED_MASK_ID),
            "advance": lambda a: self._advance(a, run_op),
        }
        run[role](tensors)

    def scratch(self) -> object:
        if self._pool is None:
            return None
        return sorted((segment["address"], segment["total_size"]) for segment in self._pool.snapshot())

    def trim(self) -> bool:
        if self._pool is None:
            return False
        before = torch.cuda.memory_reserved(self._where)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(self._where) < before

    def close(self) -> None:
        self._towers.clear()
        self._pool = None
        if self._weight_scope is not None:
            self._weight_scope.close()

    def _context(self, a: Tensors, run_op: RunOp) -> None:
        _, state, saved = fused_towers.context_forward(
            self._config,
            self._towers[CONTEXT],
            run_op,
            a["input_ids"],
            self._place(a, a["lengths"]),
            a["commit_len"],
            a.get("logit_positions"),
            self._by_layer(a),
            self.record,
            self._write(),
            a.get("logits"),
            keep=any(numbered(SAVED_NAMES[0], i) in a for i in self._config.layers_of(LayerKind.MAMBA)),
        )
        self._keep_mamba(a, {i: state[i] for i in self._config.layers_of(LayerKind.MAMBA)})
        for i, (kind, after, kept) in enumerate(zip(self._config.layers, state, saved, strict=True)):
            if kind == LayerKind.ATTENTION and not self.pooled:
                for name, tensor in zip(layer_names(self._config, i), after, strict=True):
                    a[new_kv_name(name)].copy_(tensor)
            for name, tensor in zip(SAVED_NAMES, kept, strict=False):
                if numbered(name, i) in a:
                    a[numbered(name, i)].copy_(tensor)

    def _denoiser(self, a: Tensors) -> None:
        fused_towers.denoiser_forward(
            self._config,
            self._towers[DENOISER],
            self._run_op,
            a["block_ids"],
            a["t"],
            self._place(a, a["lengths"]),
            self._by_layer(a),
            self.record,
            a["logits"],
        )

    def _choose(self, op: OpSpec, a: Tensors, mask_id: int) -> None:
        """Read the logits in splits and give what this op makes of them."""
        B, L, V = a["logits"].shape
        read = self._run_op(
            SPLIT_PREDICT,
            *(a[spec.name] for spec in SPLIT_PREDICT.inputs),
            mask_id=mask_id,
            X=splits(B * L, V),
        )
        inputs = [*read, *(a[spec.name] for spec in op.inputs[len(read) :])]
        targets = [a[spec.name] for spec in op.outputs]
        if self._takes_out:
            self._run_op(op, *inputs, out=targets, mask_id=mask_id)
            return
        for target, tensor in zip(targets, self._run_op(op, *inputs, mask_id=mask_id), strict=True):
            target.copy_(tensor)

    def _advance(self, a: Tensors, run_op: RunOp) -> None:
        # No layer that is moved here has a cache, so nobody asks how long that is.
        moved, place = {}, self._place(a, a["commit_len"])
        for i in self._config.layers_of(LayerKind.MAMBA):
            xbc, dt = (a[numbered(name, i)] for name in SAVED_NAMES)
            before = tuple(a[name] for name in layer_names(self._config, i))
            moved[i] = fused_towers.advance_layer(
                self._config, self._towers[CONTEXT].layers[i], run_op, xbc, dt, a["commit_len"], place, before
            )
        self._keep_mamba(a, moved)

    def _write(self) -> WriteBlock | None:
        """What takes a block's keys and values; None: the kernel, which `_over_inputs` tells where to."""
        if not self.pooled:
            return _new_kv
        return None if self._takes_out else _write_pages

    def _over_inputs(
        self, table: Mapping[str, Sequence[str | None]], op: OpSpec, *inputs: Tensor, **attributes: Any
    ) -> tuple[Tensor, ...]:
        """Run an op; of those in the table the outputs go over inputs."""
        names = table.get(op.name)
        if names is None:
            self._load_in_place(op, inputs, attributes)
            return self._run_op(op, *inputs, **attributes)
        named = dict(zip((spec.name for spec in op.inputs), inputs, strict=True))
        return self._run_op(
            op, *inputs, out=tuple(None if name is None else named[name] for name in names), **attributes
        )

    def _load_in_place(self, op: OpSpec, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> None:
        """Launch once, over the scratch row and committing nothing, what a capture launches over the old
        state: that is another kernel, which Triton would compile and load in the midst of the capture.
        """
        if op.name not in _OVER_OLD_STATE:
            return
        kind = op.name, *(x.stride() for x in inputs)  # how far tokens lie apart is a constant of the kernel
        if kind in self._loaded:
            return
        self._loaded.add(kind)
        named = dict(zip((spec.name for spec in op.inputs), inputs, strict=True))
        nothing = {"rows": SCRATCH, "commit_len": 0}
        given = (torch.full_like(x, nothing[name]) if name in nothing else x for name, x in named.items())
        out = tuple(None if name is None else named[name] for name in _OVER_OLD_STATE[op.name])
        self._run_op(op, *given, out=out, **attributes)

    def _keep_mamba(self, a: Tensors, new_state: Mapping[int, LayerState]) -> None:
        """Let the Mamba layers have their new state, by layer.

        Only after all layers: where memory ran short in between, the call is made again from the old state.
        """
        if self.pooled:
            self._keep_rows(a, new_state)
            return
        # One launch for all tensors of a dtype.
        copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for layer, after in new_state.items():
            for name, tensor in zip(layer_names(self._config, layer), after, strict=True):
                target = a[new_name(name)]
                targets, sources = copies.setdefault(target.dtype, ([], []))
                targets.append(target)
                sources.append(tensor)
        for targets, sources in copies.values():
            torch._foreach_copy_(targets, sources)  # torch has no other name for it

    def _keep_rows(self, a: Tensors, new_state: Mapping[int, LayerState]) -> None:
        """Write the call's rows (B, …) of new Mamba states into the pool, as far as they are not there."""
        if not new_state:
            return
        rows = a["rows"].long()
        # The convolutions' states are small, so those of all layers go together.
        a["conv_states"].index_copy_(1, rows, torch.stack([conv for conv, _ in new_state.values()]))
        for layer, (_, scan) in new_state.items():
            _, name = layer_names(self._config, layer)
            if scan is not a[name]:
                a[name].index_copy_(0, rows, scan)

    def _place(self, a: Tensors, lengths: Tensor) -> Place:
        return Pooled(a["rows"], a["pages"], lengths) if self.pooled else Dense(lengths)

    def _by_layer(self, a: Tensors) -> list[tuple[Tensor, ...]]:
        def named(cache: str) -> Tensor:
            return a[page_name(cache) if self.pooled and is_kv_cache(cache) else cache]

        names = (layer_names(self._config, i) for i in range(self._config.num_layers))
        return [tuple(map(named, layer)) for layer in names]

    @contextlib.contextmanager
    def _on(self, stream: int) -> Iterator[None]:
        """Launch on this stream, with scratch memory from the pool; on the CPU there is neither."""
        if self._pool is None:
            yield
            return
        with torch.cuda.device(self._where), _exact_sums():
            foreign: Any = torch.cuda.ExternalStream(stream, self._where)
            with torch.cuda.stream(foreign), torch.cuda.use_mem_pool(self._pool, self._where):
                yield


def _new_kv(state: LayerState, keys: Tensor, values: Tensor, place: Place) -> LayerState:
    """Return the block's keys and values (B, KV heads, L, head dim) in place of a cache with them."""
    heads, width = state[0].shape[1], state[0].shape[3]
    return tuple(tensor.view(*tensor.shape[:2], heads, width).transpose(1, 2) for tensor in (keys, values))


def _write_pages(state: LayerState, keys: Tensor, values: Tensor, place: Place) -> LayerState:
    """Write without kernels."""
    key_pages, value_pages = state
    return write_pages(keys, values, key_pages, value_pages, place.pages, place.lengths)


@contextlib.contextmanager
def _exact_sums() -> Iterator[None]:
    """Let cuBLAS add up the parts of a split product in float32, not in the compute dtype, which torch allows
    by default: it decides near-ties otherwise than the reference.
    """
    matmul = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = {name: getattr(matmul, name) for name in names}
    try:
        for name in names:
            setattr(matmul, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


def view_of(device: Device, array: DeviceArray) -> Tensor:
    """Return a device array as a tensor, without a copy; numbers of four bits as uint8, two in each.

    Raises:
        BackendError: torch made a copy of it.
    """
    shared = device.exchange(array)
    # Named, since torch may have another default device, to which it would copy.
    where = device.name if hasattr(shared, "__cuda_array_interface__") else "cpu"
    raw = torch.as_tensor(shared, device=where)
    if raw.data_ptr() != array.address:
        raise BackendError(
            f"torch {torch.__version__} copies memory of {device.name} instead of sharing it; "
            "use another version of torch"
        )
    if is_packed(array.dtype):
        return raw.view(*array.shape[:-1], array.shape[-1] // 2)
    return raw.view(getattr(torch, array.dtype)).view(array.shape)
