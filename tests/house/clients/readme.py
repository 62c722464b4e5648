"""The program in README.md; a test holds both together."""

import ttc

with ttc.load("miniature") as engine:
    result = engine.generate("Question: Sort 11, 61, 44, 74.\nAnswer:")
    print(result.text)
    print(result.stats.nfe, "denoiser passes for", len(result.token_ids), "tokens")
