"""The residual stream around a mixer: the norm before it, and the sum after it.

Six ops, since a tower may modulate and a mixture of experts has two outputs to add:

    StreamNorm             norm(x)                        context tower; both heads
    ModulatedNorm          norm(x·(1 + scale) + shift)    denoiser, before Mamba and attention
    NormModulated          norm(x)·(1 + scale) + shift    denoiser, before experts and MLPs
    MixtureResidual        x + routed + shared            context tower
    GatedResidual          x + gate·out                   denoiser
    GatedMixtureResidual   x + gate·(routed + shared)     denoiser

Shift, scale and gate of a layer are its table plus what the time gives all layers alike (docs/model.md, Time
conditioning); a row with a negative t gets shift 0, scale 0, gate 1.

In torch each of them would be four to twelve launches over a few kilobytes. An engine's compiler merges such
chains with the products around them, so engines get the bodies (`glue`).
"""

from ttc.plugins.ops import OpSpec

__all__ = [
    "GATED_MIXTURE_RESIDUAL",
    "GATED_RESIDUAL",
    "MIXTURE_RESIDUAL",
    "MODULATED_NORM",
    "NORM_MODULATED",
    "OPS",
    "ORDER",
    "STREAM_NORM",
]

_X, _NORMED, _STREAM = "x: compute (B, L, D)", "normed: compute (B, L, D)", "stream: compute (B, L, D)"
_MODULATION = ["modulation: compute (B, 3, D)", "t: float32 (B)", "table: compute (3, D)"]
_MIXTURE = ["routed: float32 (B, L, D)", "shared: compute (B, L, D)"]

STREAM_NORM = OpSpec.make(
    __name__,
    "StreamNorm",
    "RMSNorm in float32.",
    inputs=[_X, "weight: compute (D)"],
    outputs=[_NORMED],
    attributes={"epsilon": "float"},
    glue=True,
)
MODULATED_NORM = OpSpec.make(
    __name__,
    "ModulatedNorm",
    "RMSNorm of the modulated stream.",
    inputs=[_X, *_MODULATION, "weight: compute (D)"],
    outputs=[_NORMED],
    attributes={"epsilon": "float"},
    glue=True,
)
NORM_MODULATED = OpSpec.make(
    __name__,
    "NormModulated",
    "The modulated RMSNorm of the stream.",
    inputs=[_X, *_MODULATION, "weight: compute (D)"],
    outputs=[_NORMED],
    attributes={"epsilon": "float"},
    glue=True,
)
MIXTURE_RESIDUAL = OpSpec.make(
    __name__,
    "MixtureResidual",
    "The stream after a mixture of experts.",
    inputs=[_X, *_MIXTURE],
    outputs=[_STREAM],
    glue=True,
)
GATED_RESIDUAL = OpSpec.make(
    __name__,
    "GatedResidual",
    "The stream after a mixer whose output is gated.",
    inputs=[_X, "out: compute (B, L, D)", *_MODULATION],
    outputs=[_STREAM],
    glue=True,
)
GATED_MIXTURE_RESIDUAL = OpSpec.make(
    __name__,
    "GatedMixtureResidual",
    "The stream after a mixture of experts whose output is gated.",
    inputs=[_X, *_MIXTURE, *_MODULATION],
    outputs=[_STREAM],
    glue=True,
)
OPS = (
    STREAM_NORM,
    MODULATED_NORM,
    NORM_MODULATED,
    MIXTURE_RESIDUAL,
    GATED_RESIDUAL,
    GATED_MIXTURE_RESIDUAL,
)
ORDER = 60
