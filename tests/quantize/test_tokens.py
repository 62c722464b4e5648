"""A quantised checkpoint is exported and generates, the same on both backends of the CPU."""

import ttc
from ttc.quantize.plan import Formats
from ttc.quantize.run import quantize

PROMPT = [5, 17, 33, 2, 60]
ATTENTION = {
    "hybrid_override_pattern": "*E",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def generate(bundle, backend):
    with ttc.load(bundle, backend=backend, device="cpu") as engine:
        options = {"max_new_tokens": 16, "stop_at_eos": False}
        return [engine.generate(PROMPT, mode=mode, **options).token_ids for mode in ("ar", "diffusion")]


def test_the_tokens_are_the_same_on_both_backends(checkpoint, tmp_path):
    # Weights large enough that the experts decide the tokens.
    source, _ = checkpoint(change=lambda t: t.update({n: 8 * w for n, w in t.items()}), **ATTENTION)
    quantize(source, tmp_path / "quantised", Formats("int8", "nvfp4"), jobs=1)
    bundle = ttc.export(tmp_path / "quantised", tmp_path / "bundle", dtype="float32")
    ar, diffusion = generate(bundle, "torch")
    assert len(ar) == len(diffusion) == 16
    assert [ar, diffusion] == generate(bundle, "onnxruntime")
