"""`ttc plan`: what a model must move and compute, and what that allows on a given machine.

passes           configuration → bytes and operations of one pass of a tower
experts          how many experts a batch of tokens chooses
expert_formats   bytes of quantised experts, and how fast a kernel can decode them
machines         bandwidth, arithmetic and memory of named GPUs, each number with its source
forecast         the shortest times that follow, tokens per second of every mode, and where they cross
holding          which machines hold both towers, or one
gpus             formats on a GPU that was found, for `ttc doctor`
simulation       the runtime's core over a virtual clock, for `ttc plan --serve`
models           the released model's configuration, and those of bundles and checkpoints
"""
