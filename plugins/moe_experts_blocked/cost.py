"""FLOPs of the two grouped products: those of eight-bit weights, since decoding a weight counts nothing."""

from ttc.plugins.moe_experts_scaled.cost import moe_down_scaled as moe_down_blocked
from ttc.plugins.moe_experts_scaled.cost import moe_up_scaled as moe_up_blocked

__all__ = ["moe_down_blocked", "moe_up_blocked"]
