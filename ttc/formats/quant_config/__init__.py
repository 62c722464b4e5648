"""Which modules of a checkpoint are quantised, and how: the files of ModelOpt and compressed-tensors."""
