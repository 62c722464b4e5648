"""Settings of the service: one list, from options, environment and a TOML file, in this order."""

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.base.toml_file import read_toml
from ttc.errors import InputError
from ttc.formats.strictjson import quoted

__all__ = ["NIM_NAMES", "Settings", "environment_names", "read_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a service is started with; every setting with its default.

    Attributes:
        bundle: the folder that `ttc export` wrote.
        host, port: where it listens; port 0 takes a free one.
        backend, device, engines, trust, capacity, threads: as `ttc.load` takes them.
        max_rows: rows that run at once.
        max_queued, max_queued_tokens: rows, and tokens of their prompts, that may wait.
        prompt_tokens_per_tick: prompt tokens read between two denoise steps: fewer keep streams even, more
            start prompts sooner.
        prefix_cache_bytes: size of the prefix cache; 0 for none, None for a share of the memory at hand.
        served_model_name: what clients call the model; None for the bundle's own name.
        mode, max_tokens: of requests that name none.
        api_key_file: keys that may ask, one a line; None lets everybody ask.
        chat_template: file of a Jinja template for chats; None for the bundle's own.
        drain_seconds: how long accepted requests may take after SIGTERM.
        stall_seconds: a tick that takes longer means that the engine is dead.
        max_body_bytes: most bytes of a request's body.
        max_connections: most connections at once.
        ping_seconds: a stream without news for so long gets a comment.
        client_seconds: a client that sends or takes nothing for so long is let go.
    """

    bundle: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    backend: str = "onnxruntime"
    device: str | None = None
    engines: str | None = None
    trust: str | None = None
    capacity: int | None = None
    threads: int | None = None
    max_rows: int = 16
    max_queued: int = 64
    max_queued_tokens: int = 262_144
    prompt_tokens_per_tick: int = 256
    prefix_cache_bytes: int | None = None
    served_model_name: str | None = None
    mode: str = "diffusion"
    max_tokens: int = 256
    api_key_file: str | None = None
    chat_template: str | None = None
    drain_seconds: float = 30.0
    stall_seconds: float = 60.0
    max_body_bytes: int = 1 << 20
    max_connections: int = 1024
    ping_seconds: float = 15.0
    client_seconds: float = 60.0

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.served_model_name or Path(self.bundle).name.removesuffix(".bundle") or "ttc"


# Names that NVIDIA NIM's containers read, where they mean the same.
NIM_NAMES: Mapping[str, str] = {
    "NIM_SERVER_PORT": "port",
    "NIM_SERVED_MODEL_NAME": "served_model_name",
    "NIM_MAX_MODEL_LEN": "capacity",
    "NIM_MODEL_PATH": "bundle",
}
# Setting → str, int or float; None is a default, never said.
_KINDS: Mapping[str, type] = {
    name: next(iter(typing.get_args(hint)), hint) for name, hint in typing.get_type_hints(Settings).items()
}
_FROM_ZERO = frozenset({"port", "prefix_cache_bytes", "drain_seconds"})


def environment_names() -> dict[str, str]:
    """Return environment variable → setting; of two that say the same, ours comes later and counts."""
    return {**NIM_NAMES, **{f"TTC_{name.upper()}": name for name in _KINDS}}


def read_settings(
    options: Mapping[str, Any], file: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings: what an option says, else the environment, else the file, else the default.

    Raises:
        InputError: a setting that there is not, or one with a value that is none.
    """
    found: dict[str, Any] = {} if file is None else _from_file(file)
    environment = os.environ if environment is None else environment
    for variable, name in environment_names().items():
        if variable in environment:
            found[name] = _of_text(variable, name, environment[variable])
    found |= {name: value for name, value in options.items() if value is not None}
    for name, value in found.items():
        _check(name, value)
    return Settings(**found)


def _from_file(file: Path) -> dict[str, Any]:
    content = read_toml(file, InputError)
    if unknown := sorted(set(content) - set(_KINDS)):
        raise InputError(f"{file}: unknown setting {quoted(unknown[0])}; valid: {', '.join(_KINDS)}")
    return content


def _of_text(variable: str, name: str, text: str) -> Any:
    try:
        return _KINDS[name](text)
    except ValueError:
        raise InputError(f"{variable} is {quoted(text)}; valid: a number") from None


def _check(name: str, value: Any) -> None:
    kind = _KINDS[name]
    if kind is str:
        if not isinstance(value, str) or not value:
            raise InputError(f"{name} is {quoted(value)}; valid: a text")
        return
    number = int | float if kind is float else int
    least = 0 if name in _FROM_ZERO else 1
    if isinstance(value, bool) or not isinstance(value, number) or not least <= value <= 2**53:
        what = "a number" if kind is float else "an integer"
        raise InputError(f"{name} is {quoted(value)}; valid: {what} from {least}")
    if name == "port" and value > 65535:
        raise InputError(f"port is {value}; valid: 0 to 65535")
