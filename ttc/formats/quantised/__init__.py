"""Quantised matrices as they are stored: a file a format, each with `encode` and `decode`.

A matrix (N, K) has N outputs and K inputs. What it is stored as goes by ModelOpt's suffixes: "weight" are the
codes, "weight_scale" the scales, "weight_scale_2" a second scale of the whole matrix. `decode` gives float32
and rounds no more than its formula says; `encode` takes any floating dtype, rounds to nearest, and needs no
data but the matrix. Where all weights under a scale are zero, the scale is 1.0.
"""
