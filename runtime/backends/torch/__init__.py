"""Plain torch: the towers as `ttc.model.towers` writes them. CPU, or CUDA where present. The yardstick for
the others.
"""
