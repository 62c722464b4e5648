"""A quantised checkpoint is exported and generates, the same on both backends of the CPU, and its bundle's
weights are verified.
"""

import numpy as np
from safetensors.numpy import save_file

import ttc
from tests.support.torch_tables import share_translations
from ttc.model.bundle import Bundle
from ttc.quantize.plan import Formats
from ttc.quantize.run import quantize
from ttc.verify.weights import check_weights

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


def checked(bundle, checkpoint):
    with Bundle.open(bundle) as opened:
        return check_weights(opened, checkpoint, lambda line: None).faults


def test_the_tokens_are_the_same_on_both_backends(checkpoint, tmp_path):
    # Weights large enough that the experts decide the tokens.
    source, tensors = checkpoint(change=lambda t: t.update({n: 8 * w for n, w in t.items()}), **ATTENTION)
    quantize(source, tmp_path / "quantised", Formats("int8", "nvfp4"), jobs=1)
    share_translations()
    bundle = ttc.export(tmp_path / "quantised", tmp_path / "bundle", dtype="float32")
    ar, diffusion = generate(bundle, "torch")
    assert len(ar) == len(diffusion) == 16
    assert [ar, diffusion] == generate(bundle, "onnxruntime")

    assert not checked(bundle, tmp_path / "quantised")
    assert not checked(bundle, source)
    other = tmp_path / "other"
    quantize(source, other, Formats("int8", "int8"), jobs=1)
    assert any("up_proj" in fault for fault in checked(bundle, other))
    # The plain checkpoint with one expert of other weights is not what the bundle was made from.
    path = source / "model.safetensors"
    name = "denoiser_tower.layers.1.mixer.experts.2.up_proj.weight"
    tensors[name] = np.roll(tensors[name], 1)
    save_file(tensors, path)
    (fault,) = checked(bundle, source)
    assert "part 2: relative error" in fault
    assert fault.endswith(f"in nvfp4, of the checkpoint's {name} in float32")
