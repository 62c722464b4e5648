"""What runs a bundle's graphs on a device, and the tensors of each graph by name.

An executor knows nothing of rows or CUDA graphs: it makes, for tensors at fixed addresses, the work that
computes one graph from them. The names are those of the bundle's graphs, so that one set of buffers serves
towers in torch, whole engines and cut ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from ttc.base.dims import Dim, Shape, sizes_of
from ttc.base.dtypes import stored_bytes
from ttc.model import graphs
from ttc.model.config import ModelConfig
from ttc.model.graphs import GraphTensor
from ttc.plugins.diffusion_step import DIFFUSION_PREDICT
from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.row_pool import PAGE
from ttc.runtime.interface.backend import Limits

__all__ = [
    "CONTEXT_INPUTS",
    "DENOISER_INPUTS",
    "POOL_INPUTS",
    "SAMPLING_INPUTS",
    "SAMPLING_OUTPUTS",
    "STEP_INPUTS",
    "STEP_OUTPUTS",
    "UNUSED_MASK_ID",
    "Executor",
    "Specs",
    "cache_specs",
    "mamba_specs",
    "new_kv_specs",
    "page_name",
    "page_specs",
    "saved_specs",
    "specs_bytes",
    "state_specs",
]

# Name → dtype and shape.
Specs = Mapping[str, tuple[str, Shape]]


def _specs(tensors: Iterable[GraphTensor], dtype: str, **sizes: Dim) -> Specs:
    """Return specs of graph tensors in this compute dtype, with `sizes` in place of these letters."""
    return {
        tensor.name: (tensor.dtype_in(dtype), tuple(sizes.get(str(dim), dim) for dim in tensor.shape))
        for tensor in tensors
    }


CONTEXT_INPUTS = _specs(graphs.CONTEXT_INPUTS, "")
DENOISER_INPUTS = _specs(graphs.DENOISER_INPUTS, "")
STEP_INPUTS = _specs(graphs.STEP_INPUTS, "")
STEP_OUTPUTS = _specs(graphs.STEP_OUTPUTS, "")
# Of the choice of AR's tokens (`ttc.runtime.gpu.sampling`): the mask id, which stands in `block_ids` where a
# token is to be chosen.
UNUSED_MASK_ID = -1
SAMPLING_INPUTS = _specs(map(graphs.from_op, DIFFUSION_PREDICT.inputs[1:]), "", L="R")
_PAGES_OF = {"k_cache": "key_pages", "v_cache": "value_pages"}
# Where the rows of a call lie in a pool: the numbers of its rows, and of each the table of its pages.
POOL_INPUTS: Specs = {"rows": ("int32", ("B",)), "pages": ("int32", ("B", "M"))}
SAMPLING_OUTPUTS = _specs(map(graphs.from_op, DIFFUSION_PREDICT.outputs), "", L="R")


class Executor(ABC):
    """Computes the graphs of one bundle on one device.

    Attributes:
        name: of the backend it serves.
        compute_dtype: of weights and activations.
        notes: what is not as asked, one sentence each.
        capture_problem: why its work cannot be captured into a graph; None where it can, as far as is known:
            some libraries tell only when the work has run once.
        pooled: whether it takes rows of a pool (`POOL_INPUTS`, `page_specs`) and writes their new state over
            the old one. Otherwise the state is that of the batch, and it gives the new Mamba state beside the
            old (`new_conv_state.i`, `new_ssm_state.i`) and the block's keys and values (`new_kv_specs`), and
            `StateBuffers` moves them.
        saves_on_demand: whether a context call leaves what `advance` needs only where it is given room for
            it; otherwise it must be given that.
        limits: sizes it can compute; None where any will do.
        skips_logits: whether a context call may be given neither "logit_positions" nor room for "logits", and
            then computes none.
        logits_dtype: of the logits, which the roles "step" and "sample" read.
    """

    name: str
    compute_dtype: str
    notes: Sequence[str] = ()
    capture_problem: str | None = None
    pooled: bool = False
    saves_on_demand: bool = False
    limits: Limits | None = None
    skips_logits: bool = False
    logits_dtype: str = "float32"

    @abstractmethod
    def bind(
        self, scope: Scope, role: str, tensors: Mapping[str, DeviceArray], sizes: Mapping[str, int]
    ) -> Enqueue:
        """Return the work of one run of the graph `role` over these inputs and outputs.

        The role "sample", which no bundle has a graph of, makes the tensors `SAMPLING_OUTPUTS` from `logits`
        and `SAMPLING_INPUTS`.

        `sizes` are those of the letters B, L, C and R. Whatever the work needs is allocated here, in the
        scope. The first run may prepare things that a capture could not; later ones only launch.
        """

    def scratch(self) -> object:
        """Return what scratch memory it has beside that of the scopes, comparable with ==; None here."""
        return None

    def trim(self) -> bool:
        """Give memory back that a library keeps without using it; return whether there was any."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; a second call does nothing."""


def state_specs(config: ModelConfig, dtype: str, batch: int, capacity: int) -> Specs:
    """Return specs of a batch's context state: what Mamba layers keep, then the caches of keys and values."""
    return {**mamba_specs(config, dtype, batch), **cache_specs(config, dtype, batch, capacity)}


def mamba_specs(config: ModelConfig, dtype: str, batch: int) -> Specs:
    """Return specs of what Mamba layers keep."""
    return _specs(graphs.mamba_state(config), dtype, B=batch)


def cache_specs(config: ModelConfig, dtype: str, batch: int, capacity: int) -> Specs:
    """Return specs of the caches, all of one shape: (B, KV heads, C, head dim)."""
    return _specs(graphs.kv_cache(config), dtype, B=batch, C=capacity)


def page_specs(config: ModelConfig, dtype: str, pages: int) -> Specs:
    """Return specs of a pool's pages, all of one shape: (G, KV heads, tokens of a page, head dim)."""
    return {page_name(name): spec for name, spec in cache_specs(config, dtype, pages, PAGE).items()}


def page_name(cache: str) -> str:
    """Return the name of the pages that hold what the cache of this name does: `key_pages.3`."""
    kind, _, layer = cache.partition(".")
    return graphs.numbered(_PAGES_OF[kind], int(layer))


def new_kv_specs(config: ModelConfig, dtype: str, batch: int, length: int) -> Specs:
    """Return specs of the new keys and values of a block, in the order of the caches that they belong to."""
    return _specs(graphs.new_kv(config), dtype, B=batch, L=length)


def saved_specs(config: ModelConfig, dtype: str, batch: int, length: int) -> Specs:
    """Return specs of what a context call keeps of a block for `advance`."""
    return _specs(graphs.saved_inputs(config), dtype, B=batch, L=length)


def specs_bytes(specs: Specs) -> int:
    """Return the size of tensors whose dimensions are numbers."""
    return sum(stored_bytes(dtype, sizes_of(shape, {})) for dtype, shape in specs.values())
