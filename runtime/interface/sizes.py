"""Sizes that nobody asked for: how much of a prompt is read at once, and how much a state holds."""

from dataclasses import dataclass

__all__ = ["CPU_SIZES", "GPU_SIZES", "UsualSizes"]


@dataclass(frozen=True, slots=True)
class UsualSizes:
    """What suits a kind of processor.

    Attributes:
        chunk: prompt tokens of one context call.
        buckets: capacities of states, in tokens; beyond the largest, multiples of it.
    """

    chunk: int
    buckets: tuple[int, ...]

    def bucket(self, tokens: int) -> int:
        """Return the smallest capacity that holds this many tokens."""
        for bucket in self.buckets:
            if tokens <= bucket:
                return bucket
        return -(-tokens // self.buckets[-1]) * self.buckets[-1]


# The scan's L × L matrices grow with the square of the chunk; those of 64 tokens fit the caches of a core.
# Dynamic shapes cost nothing, so the buckets only keep the attention over unused capacity small.
CPU_SIZES = UsualSizes(64, (128, 256, 512, 1024, 2048, 4096))
# 64 tokens hit nearly all experts, so every chunk reads nearly all weights: longer ones read them less
# often, until the products are bound by arithmetic. Attention's scores take 4·C bytes a token and head in
# every chunk, which is why it is not longer still. Every capacity has buffers and CUDA graphs of its own, so
# there are few, and small ones, over which attention costs little beside the weights, are one.
GPU_SIZES = UsualSizes(256, (512, 2048, 4096, 8192, 16384, 32768))
