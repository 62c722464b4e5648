"""The letters of the ops' signatures (`ttc.plugins.ops`), as a configuration sets them."""

from ttc.model.config import ModelConfig

__all__ = ["op_dims"]


def op_dims(config: ModelConfig) -> dict[str, int]:
    """Return the sizes of all letters but those of a call: B rows, L tokens of each, T tokens in all.

    Letters of layers that the model does not have are left out.
    """
    dims = {"D": config.hidden_size, "V": config.vocab_size}
    if config.mamba_num_heads:
        dims |= {
            "H": config.mamba_num_heads,
            "P": config.mamba_head_dim,
            "G": config.n_groups,
            "N": config.ssm_state_size,
            "F": config.conv_dim,
            "M": config.d_inner,
            "W": config.conv_kernel,
        }
    if config.num_attention_heads:
        dims |= {"Q": config.query_dim, "J": config.num_key_value_heads, "Y": config.head_dim}
    if config.n_routed_experts:
        dims |= {
            "E": config.n_routed_experts,
            "K": config.num_experts_per_tok,
            "I": config.moe_intermediate_size,
            "S": config.moe_shared_expert_intermediate_size,
        }
    return dims
