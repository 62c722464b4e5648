"""`ttc` inside Polygraphy: what `polygraphy run` finds by the entry point `polygraphy.run.plugins`.

arguments     the options: --ttc, --ttc-ref, --ttc-loop, …
runners       a tower, or a whole generation, as Polygraphy's runners
inputs        a data loader whose inputs a tower can be given
compare       comparison functions for logits and for generations
replay        saved inputs and outputs, in both directions
layers        a tower with one node per layer, and what must come out of each, for `polygraphy debug`
check         one ONNX file against that

Importing any of these needs Polygraphy; nothing else in `ttc` does.
"""
