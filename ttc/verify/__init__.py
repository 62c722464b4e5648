"""`ttc verify`: is what a backend computes the model? `ttc.verify.run.verify` is the way in.

preflight     what is refused before anything is computed
scenario      the calls: prefill in two chunks, denoise, extend, one token, advance
observe       runs them on a backend and keeps logits, states and every layer's residual stream
backends      the reference out of the bundle's weights, and the backends to compare with it
tolerances    how far a backend may be from the reference, by dtype
compare       distances beside the tolerances, and which layer went wrong first
generation    the same prompts, token by token
weights       contents of the weights
quantised     quantised matrices: each, its layer's together, and against what they were made from
matrices      what can be wrong with one of them
native        the context tower against transformers' own NemotronH
report        what was found
"""
