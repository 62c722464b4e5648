"""Every numeric tolerance of the tests: largest absolute difference, float32.

They are those of the golden READMEs: the reference itself differs from its float64 run by a tenth of them.
The denoiser's are wider because the time sinusoid's argument reaches 1000 and the layers amplify its
rounding.
"""

CONTEXT_LOGITS = 3e-4
CACHES = 3e-4
LAYERS = 3e-4
DENOISER_LOGITS = 3e-3
DENOISER_LAYERS = 3e-3
SINUSOID = 3e-4
TIME_EMBEDDING = 3e-4
ROUTER_WEIGHTS = 1e-5
MOE = 3e-4
PROBABILITIES = 1e-5
# One op against its naive function, inputs of order one.
OP = 2e-5
# Sums of up to a few thousand exponentials that are at most 1, in another order.
EXPONENTIALS = 1e-4
# The closed form of the scan against the recurrence: sums of up to a few hundred terms.
SCAN = 2e-4
# transformers' NemotronH against our context tower, its dt clamp neutralised.
TRANSFORMERS = 3e-4
# A kernel against the naive function in the same dtype, values up to ten: a few units in the last place of
# the result, since the naive function rounds after every step and the kernel once. The interpreter cuts
# bfloat16 off instead of rounding.
KERNEL = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 1.3e-1}
# The same of kernels that decode their weights, as a share of the largest result: both sum the same numbers
# in float32. Weights of four-bit integers times their scale are rounded to bfloat16 by the naive function,
# and cut off by the interpreter; so is every result in bfloat16.
DECODING_KERNEL = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
# Two pictures of one page, taken by two browsers with the same fonts: greys of 256 by which a tile may
# differ, and the share of tiles that may differ by more.
PICTURE_LEVELS = 24
PICTURE_SHARE = 0.01
