"""The context tower against transformers' own NemotronH, on the bundle's weights in float32.

transformers clamps dt from below at `time_step_min`, the reference implementation does not, so the clamp is
set below every value; nothing else may differ. The denoiser has no counterpart there.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ttc.errors import BackendError, MissingDependencyError
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.runtime.engine import Engine
from ttc.verify.compare import distance
from ttc.verify.generation import built_in_prompts
from ttc.verify.report import NativeCheck
from ttc.verify.tolerances import TRANSFORMERS

__all__ = ["check_native", "native_model"]


def check_native(bundle: Bundle, reference: Engine, say: Callable[[str], None]) -> NativeCheck:
    """Compare the logits of the built-in prompts at every position."""
    try:
        import torch
        import transformers
    except ImportError as fault:
        raise MissingDependencyError(
            f"--against-transformers needs {fault.name}; install it with: pip install transformers"
        ) from None
    say(f"transformers {transformers.__version__}: context tower")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations
        model = native_model(bundle)
        far = 0.0
        for ids in built_in_prompts(bundle.config):
            with torch.inference_mode():
                theirs = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
            far = max(far, distance(reference.context_logits(ids), np.asarray(theirs), by_rms=False))
    return NativeCheck(f"transformers {transformers.__version__}", far, TRANSFORMERS)


def native_model(bundle: Bundle, attention: str = "eager") -> Any:
    """Return transformers' NemotronH in float32 with the weights of a bundle's context tower.

    Args:
        bundle: packed or by reference, in any compute dtype.
        attention: one of transformers' implementations, "eager" or "sdpa".

    Raises:
        BackendError: the installed transformers knows another NemotronH.
    """
    import torch
    from transformers import NemotronHForCausalLM

    from ttc.runtime.backends.torch.load import as_tensor

    native: Any = NemotronHForCausalLM
    model = native(_native_config(bundle.config, attention)).float().eval()
    state = {}
    for name in model.state_dict():
        ours = name.replace("model.", "context_tower.", 1).replace("lm_head.", "context_lm_head.", 1)
        weight = ours if ours in bundle.weights else f"{ours}.weight"
        if weight not in bundle.weights:
            raise BackendError(
                f"transformers asks for {name}, which this model does not have; its version may not know "
                "this kind of NemotronH; leave out --against-transformers"
            )
        state[name] = as_tensor(bundle.read_decoded(weight, "float32")).to(torch.float32)
    model.load_state_dict(state)
    return model


def _native_config(config: ModelConfig, attention: str) -> Any:
    """Return transformers' configuration of the context tower."""
    from transformers import NemotronHConfig

    mixed = config.n_routed_experts > 0
    given: dict[str, Any] = {
        "layers_block_type": [kind.scope for kind in config.layers],
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "max_position_embeddings": config.max_position_embeddings,
        "mamba_num_heads": config.mamba_num_heads,
        "mamba_head_dim": config.mamba_head_dim,
        "n_groups": config.n_groups,
        "ssm_state_size": config.ssm_state_size,
        "conv_kernel": config.conv_kernel,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "time_step_min": 1e-30,
        "use_mamba_kernels": False,
    }
    if mixed:
        names = (
            "n_routed_experts",
            "num_experts_per_tok",
            "moe_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "n_group",
            "topk_group",
            "norm_topk_prob",
            "routed_scaling_factor",
        )
        given |= {name: getattr(config, name) for name in names}
    given = {name: value for name, value in given.items() if value != 0 or isinstance(value, bool)}
    made: Any = NemotronHConfig
    return made(**given, attn_implementation=attention)
