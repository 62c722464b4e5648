"""The miniature's weights: how they start, and how they are stored for `ttc export`."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, DENOISER, HEADS

__all__ = ["export", "new_context", "new_denoiser", "read"]

_EXPERTS = "mixer.experts."


def new_context(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """A fresh context tower under its checkpoint names, the experts of a layer stacked (experts, out, in)."""
    random = torch.Generator().manual_seed(seed)
    D, V = config.hidden_size, config.vocab_size

    def matrix(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=random) * scale / math.sqrt(shape[-1])

    weights = {f"{CONTEXT}.embeddings.weight": torch.randn(V, D, generator=random) * 0.5}
    for i, kind in enumerate(config.layers):
        layer = {"norm.weight": torch.ones(D)}
        if kind == LayerKind.MAMBA:
            heads, F = config.mamba_num_heads, config.conv_dim
            # Time steps from 0.001 to 0.1 and decays from 1 to 16, spread over the heads, as Mamba-2 starts.
            step = torch.exp(torch.rand(heads, generator=random) * math.log(100) + math.log(0.001))
            layer |= {
                "mixer.in_proj.weight": matrix(config.d_inner + F + heads, D),
                "mixer.conv1d.weight": torch.randn(F, 1, config.conv_kernel, generator=random) * 0.5,
                "mixer.conv1d.bias": torch.zeros(F),
                "mixer.A_log": torch.linspace(1, 16, heads).log(),
                "mixer.D": torch.ones(heads),
                "mixer.dt_bias": step + torch.log(-torch.expm1(-step)),
                "mixer.norm.weight": torch.ones(config.d_inner),
                "mixer.out_proj.weight": matrix(D, config.d_inner, scale=0.3),
            }
        elif kind == LayerKind.ATTENTION:
            wide, narrow = (
                n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads)
            )
            layer |= {
                "mixer.q_proj.weight": matrix(wide, D),
                "mixer.k_proj.weight": matrix(narrow, D),
                "mixer.v_proj.weight": matrix(narrow, D),
                "mixer.o_proj.weight": matrix(D, wide, scale=0.3),
            }
        else:
            count, width = config.n_routed_experts, config.moe_intermediate_size
            shared = config.moe_shared_expert_intermediate_size
            layer |= {
                "mixer.gate.weight": matrix(count, D),
                "mixer.gate.e_score_correction_bias": torch.zeros(count),
                f"{_EXPERTS}up_proj.weight": matrix(count, width, D),
                f"{_EXPERTS}down_proj.weight": matrix(count, D, width, scale=0.3),
                "mixer.shared_experts.up_proj.weight": matrix(shared, D),
                "mixer.shared_experts.down_proj.weight": matrix(D, shared, scale=0.3),
            }
        weights |= {f"{CONTEXT}.layers.{i}.{name}": tensor for name, tensor in layer.items()}
    weights[f"{CONTEXT}.norm_f.weight"] = torch.ones(D)
    weights[HEADS[CONTEXT]] = matrix(V, D)
    return weights


def new_denoiser(config: ModelConfig, context: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A denoiser that starts as the context tower, with the time conditioning at shift 0, scale 0, gate 1."""
    random = torch.Generator().manual_seed(seed)
    D = config.hidden_size
    weights = {
        name.replace(CONTEXT, DENOISER): tensor.detach().clone()
        for name, tensor in context.items()
        if name.startswith(f"{CONTEXT}.")
    }
    weights[HEADS[DENOISER]] = context[HEADS[CONTEXT]].detach().clone()
    weights |= {
        "t_embedder.mlp.0.weight": torch.randn(D, 256, generator=random) / 16,
        "t_embedder.mlp.0.bias": torch.zeros(D),
        "t_embedder.mlp.2.weight": torch.randn(D, D, generator=random) / math.sqrt(D),
        "t_embedder.mlp.2.bias": torch.zeros(D),
        "t_block.1.weight": torch.zeros(3 * D, D),
        "t_block.1.bias": torch.zeros(3 * D),
    }
    for i in range(config.num_layers):
        weights[f"scale_shift_tables.{i}"] = torch.cat([torch.zeros(2, D), torch.ones(1, D)])
    return weights


def read(folder: Path) -> dict[str, Tensor]:
    """What `export` wrote to `folder`, in float32, the experts of a layer stacked again."""
    weights: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem, found, inside = name.partition(_EXPERTS)
        if found:
            number, _, matrix = inside.partition(".")
            experts.setdefault(f"{stem}{_EXPERTS}{matrix}", {})[int(number)] = tensor.float()
        else:
            weights[name] = tensor.float()
    stacks = {name: torch.stack([parts[e] for e in range(len(parts))]) for name, parts in experts.items()}
    return weights | stacks


def export(weights: dict[str, Tensor], config_file: Path, tokenizer: Tokenizer, folder: Path) -> None:
    """Write both towers in the layout of the released checkpoint, in bfloat16 (routing biases in float32)."""
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("e_score_correction_bias"):
            stored[name] = tensor.clone()
        elif _EXPERTS in name:
            stem, inside = name.split(_EXPERTS)
            for e, expert in enumerate(tensor.to(torch.bfloat16)):
                stored[f"{stem}{_EXPERTS}{e}.{inside}"] = expert.clone()
        else:
            stored[name] = tensor.to(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.safetensors"
    save_file(dict(sorted(stored.items())), file, metadata={"format": "pt"})
    file.chmod(0o644)
    shutil.copy(config_file, folder / "config.json")
    tokenizer.save(str(folder / "tokenizer.json"))
    raw = json.loads(config_file.read_text(encoding="utf-8"))
    keys = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")
    generation = {"_from_model_config": True, **{key: raw[key] for key in keys}}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
