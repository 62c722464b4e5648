"""Where one layer ends and the next begins: the sum of the stream, and the norm of it, in one launch.

Each op is an op of `ttc.plugins.residual_stream` that adds to the stream and one that norms it, the table and
the weight of the next layer:

    ResidualNorm                          x + out, then StreamNorm            context tower
    MixtureResidualNorm                   x + Σ weight·row + shared, then StreamNorm
    GatedResidualNorm                     x + gate·out, then StreamNorm       the denoiser's last layer
    GatedResidualModulatedNorm            the same, then ModulatedNorm        before Mamba and attention
    GatedResidualNormModulated            the same, then NormModulated        before experts and MLPs
    GatedMixtureResidualNorm …            the three, after experts

After experts the weighted sum of a token's K rows (`MoeCombine`) is part of it too. The stream itself is an
output, which the next sum needs.

The torch backend on a GPU runs them (`ttc.model.fused_towers`): at one token a launch costs more than what
these compute.
"""

from ttc.plugins.ops import OpSpec

__all__ = [
    "GATED_MIXTURE_RESIDUAL_MODULATED_NORM",
    "GATED_MIXTURE_RESIDUAL_NORM",
    "GATED_MIXTURE_RESIDUAL_NORM_MODULATED",
    "GATED_RESIDUAL_MODULATED_NORM",
    "GATED_RESIDUAL_NORM",
    "GATED_RESIDUAL_NORM_MODULATED",
    "MIXTURE_RESIDUAL_NORM",
    "OPS",
    "ORDER",
    "RESIDUAL_NORM",
]

_X, _OUT, _WEIGHT = "x: compute (B, L, D)", "out: compute (B, L, D)", "weight: compute (D)"
_MODULATION = ["modulation: compute (B, 3, D)", "t: float32 (B)", "table: compute (3, D)"]
_NEXT_TABLE = "next_table: compute (3, D)"
_MIXTURE = [
    "rows: float32 (T*K, D)",
    "weights: float32 (T, K)",
    "grouped_rows: int32 (T, K)",
    "shared: compute (B, L, D)",
]


def _op(name: str, doc: str, inputs: list[str], *parts: str) -> OpSpec:
    return OpSpec.make(
        __name__,
        name,
        doc,
        inputs=[_X, *inputs, _WEIGHT],
        outputs=["stream: compute (B, L, D)", "normed: compute (B, L, D)"],
        attributes={"epsilon": "float"},
        parts=parts,
        glue=True,
        fused=True,
    )


RESIDUAL_NORM = _op("ResidualNorm", "The stream after a mixer, and its RMSNorm.", [_OUT], "StreamNorm")
MIXTURE_RESIDUAL_NORM = _op(
    "MixtureResidualNorm",
    "The stream after a mixture of experts, and its RMSNorm.",
    _MIXTURE,
    "MoeCombine",
    "MixtureResidual",
    "StreamNorm",
)
GATED_RESIDUAL_NORM = _op(
    "GatedResidualNorm",
    "The stream after a gated mixer, and its RMSNorm.",
    [_OUT, *_MODULATION],
    "GatedResidual",
    "StreamNorm",
)
GATED_RESIDUAL_MODULATED_NORM = _op(
    "GatedResidualModulatedNorm",
    "The stream after a gated mixer, and the RMSNorm of it modulated.",
    [_OUT, *_MODULATION, _NEXT_TABLE],
    "GatedResidual",
    "ModulatedNorm",
)
GATED_RESIDUAL_NORM_MODULATED = _op(
    "GatedResidualNormModulated",
    "The stream after a gated mixer, and its modulated RMSNorm.",
    [_OUT, *_MODULATION, _NEXT_TABLE],
    "GatedResidual",
    "NormModulated",
)
GATED_MIXTURE_RESIDUAL_NORM = _op(
    "GatedMixtureResidualNorm",
    "The stream after a gated mixture of experts, and its RMSNorm.",
    [*_MIXTURE, *_MODULATION],
    "MoeCombine",
    "GatedMixtureResidual",
    "StreamNorm",
)
GATED_MIXTURE_RESIDUAL_MODULATED_NORM = _op(
    "GatedMixtureResidualModulatedNorm",
    "The stream after a gated mixture of experts, and the RMSNorm of it modulated.",
    [*_MIXTURE, *_MODULATION, _NEXT_TABLE],
    "MoeCombine",
    "GatedMixtureResidual",
    "ModulatedNorm",
)
GATED_MIXTURE_RESIDUAL_NORM_MODULATED = _op(
    "GatedMixtureResidualNormModulated",
    "The stream after a gated mixture of experts, and its modulated RMSNorm.",
    [*_MIXTURE, *_MODULATION, _NEXT_TABLE],
    "MoeCombine",
    "GatedMixtureResidual",
    "NormModulated",
)
OPS = (
    RESIDUAL_NORM,
    MIXTURE_RESIDUAL_NORM,
    GATED_RESIDUAL_NORM,
    GATED_RESIDUAL_MODULATED_NORM,
    GATED_RESIDUAL_NORM_MODULATED,
    GATED_MIXTURE_RESIDUAL_NORM,
    GATED_MIXTURE_RESIDUAL_MODULATED_NORM,
    GATED_MIXTURE_RESIDUAL_NORM_MODULATED,
)
ORDER = 64
