"""The one list of all `ttc` ops. Signatures change only together with `DOMAIN_VERSION` (docs/ops.md is made
from this).
"""

from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_PREDICT, DIFFUSION_STEP
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN, MAMBA_CONV, MAMBA_SCAN
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_EXPERTS, MOE_UP
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.ops import OpSpec

__all__ = ["OPS", "markdown"]

OPS: tuple[OpSpec, ...] = (
    MOE_ROUTING,
    MOE_EXPERTS,
    MOE_UP,
    MOE_DOWN,
    MOE_COMBINE,
    MAMBA_BLOCK_SCAN,
    MAMBA_CONV,
    MAMBA_SCAN,
    MAMBA_ADVANCE,
    DIFFUSION_STEP,
    DIFFUSION_PREDICT,
    DIFFUSION_COMMIT,
)


def markdown() -> str:
    """The table of signatures as a Markdown document's body."""
    lines = ["| op | inputs | outputs | attributes | launches |", "| --- | --- | --- | --- | --- |"]
    for op in OPS:
        inputs = "<br>".join(f"`{t.name}` {t.dtype} ({', '.join(t.shape)})" for t in op.inputs)
        outputs = "<br>".join(f"`{t.name}` {t.dtype} ({', '.join(t.shape)})" for t in op.outputs)
        attributes = ", ".join(f"`{name}` {kind}" for name, kind in op.attributes.items()) or "–"
        launches = " → ".join(f"`{name}`" for name in op.launches) or "leaf"
        lines.append(f"| `{op.name}`<br>{op.doc} | {inputs} | {outputs} | {attributes} | {launches} |")
    return "\n".join(lines) + "\n"
