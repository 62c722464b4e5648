"""Cells of a notebook, as a type checker sees them."""

import ttc

bundle = ttc.export("checkpoint", "model.bundle", dtype="float32")
engine = ttc.load(bundle, backend="torch", prefix_cache_bytes=64 << 20)
results = [engine.generate("Hello", mode="diffusion", threshold=threshold) for threshold in (0.7, 0.9)]
tokens_per_nfe = [len(result.token_ids) / result.stats.nfe for result in results]
table = {mode: engine.generate("Hello", mode).text for mode in ("ar", "diffusion")}
