"""The context tower equals transformers' own NemotronH on the same weights, once its dt clamp is neutralised.

transformers clamps dt from below at `time_step_min`, the reference does not; nothing else may differ.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.golden import golden
from ttc.model.config import LayerKind, ModelConfig
from ttc.runtime.engine import Engine


def native_model(folder, time_step_min):
    """transformers' NemotronH in float32 with the context tower's weights."""
    from transformers import NemotronHConfig, NemotronHForCausalLM

    raw = json.loads((folder / "config.json").read_text())
    pattern = raw.pop("hybrid_override_pattern")
    for key in (
        "architectures",
        "auto_map",
        "model_type",
        "num_hidden_layers",
        "torch_dtype",
        "transformers_version",
    ):
        raw.pop(key, None)
    raw |= {"time_step_min": time_step_min, "use_mamba_kernels": False}
    known = NemotronHConfig.__init__.__annotations__
    config = NemotronHConfig(
        layers_block_type=[LayerKind(letter).scope for letter in pattern],
        **{k: v for k, v in raw.items() if k in known},
    )
    config._attn_implementation = "eager"
    model = NemotronHForCausalLM(config).float().eval()
    stored = {}
    for file in sorted(folder.glob("*.safetensors")):
        if not file.name.startswith("vectors"):
            stored |= {name: tensor.float() for name, tensor in load_file(file).items()}
    state = {}
    for name in model.state_dict():
        ours = name.replace("model.", "context_tower.", 1).replace("lm_head.", "context_lm_head.", 1)
        if ".experts." in ours:
            prefix, projection = ours.rsplit(".", 1)
            count = config.n_routed_experts
            state[name] = torch.stack([stored[f"{prefix}.{e}.{projection}.weight"] for e in range(count)])
        else:
            state[name] = stored[ours]
    model.load_state_dict(state)
    return model


@pytest.mark.filterwarnings("ignore")  # as below
@pytest.mark.parametrize("name", ["tiny_a", "tiny_b", "tiny_c"])
def test_a_configuration_that_transformers_saved_again(name, tmp_path):
    from transformers import NemotronHConfig

    raw = json.loads((golden(name).folder / "config.json").read_text())
    known = {
        key: value for key, value in raw.items() if key not in ("architectures", "auto_map", "model_type")
    }
    NemotronHConfig(**known).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "hybrid_override_pattern" not in saved
    assert "layers_block_type" in saved
    assert ModelConfig.from_hf(saved) == ModelConfig.from_hf(raw)


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


@pytest.mark.filterwarnings("ignore")  # transformers' own deprecations are not ours to mend
@pytest.mark.parametrize("name", ["tiny_a", "tiny_b", "tiny_c"])
def test_context_tower_is_transformers_without_its_clamp(name, engines):
    g = golden(name)
    engine: Engine = engines(name, "torch")
    unclamped, clamped = native_model(g.folder, 1e-30), native_model(g.folder, 0.001)
    apart = 0.0
    prompts = [key.split("/")[-1] for key in g.vectors if key.startswith("ctx/logits/")]
    for prompt in prompts:
        ids = g.vectors[f"prompt/{prompt}"][0].tolist()
        ours = engine.context_logits(ids)
        assert_close(logits(unclamped, ids), ours, tolerances.TRANSFORMERS, f"{name} {prompt}")
        apart = max(apart, float(np.abs(logits(clamped, ids) - ours).max()))
    assert apart > tolerances.TRANSFORMERS, "with its clamp it differs; if not, this test shows nothing"
