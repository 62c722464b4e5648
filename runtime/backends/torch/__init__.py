"""Plain torch: the towers as `ttc.exporter.towers` writes them. CPU, or CUDA where present. The yardstick for
the others.
"""
