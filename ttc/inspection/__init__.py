"""What is in a file or folder of ours: `ttc inspect` as plain data.

describe    bundles, checkpoints, `.safetensors` and `.onnx` files, and who describes the rest
engines     sets of engines, single engines, cut programs
quantised   formats of experts, by tower and layer
layers      parameters and bytes by layer and by layer kind
diff        what differs between two descriptions
"""

from ttc.inspection.describe import describe

__all__ = ["describe"]
