"""The meaning of the model: configuration, weights, graphs, and both towers in plain torch."""
