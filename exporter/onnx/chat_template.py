"""The template of chats that a checkpoint brings: a file of its own, or a key of tokenizer_config.json."""

import os
from pathlib import Path

from ttc.base.files import read_bounded
from ttc.errors import CheckpointError
from ttc.formats.strictjson import quoted, read_json

__all__ = ["chat_template"]

_LIMIT_BYTES = 1 << 20


def chat_template(folder: Path) -> str | None:
    """Return the checkpoint's chat template, None where it has none. It is only rendered by `ttc serve`."""
    file = folder / "chat_template.jinja"
    if os.path.lexists(file):
        try:
            return read_bounded(file, _LIMIT_BYTES, CheckpointError).decode()
        except UnicodeDecodeError as fault:
            raise CheckpointError(f"{file}: not UTF-8 text (byte {fault.start})") from None
    config = folder / "tokenizer_config.json"
    if not os.path.lexists(config):
        return None
    content = read_json(config, 16 * _LIMIT_BYTES, CheckpointError)
    template = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(template, list):  # several, by name
        named = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
        template = named[-1].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{config}: chat_template is {quoted(template)}; a text is due")
    return template
