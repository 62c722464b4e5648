"""ONNX Runtime's execution providers by the names that users type, their options, and where they keep what
they build.

TensorRT's providers build engines when a graph first runs at some size. They are kept for the next process in
`$XDG_CACHE_HOME/ttc/onnxruntime`, a folder for each bundle, version of ONNX Runtime and provider; which GPU
they serve, the providers say in their files' names. Engines are code, so a folder that others can write is
not used.
"""

import hashlib
import json
from dataclasses import dataclass, field

import onnxruntime

from ttc.base.names import PROVIDERS
from ttc.base.ownership import why_foreign_folder
from ttc.base.user_cache import user_cache
from ttc.errors import BackendError, InputError
from ttc.formats.strictjson import quoted
from ttc.runtime.interface.devices import parse_device

__all__ = ["Choice", "choose_provider"]

_EXECUTION_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nv-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Who computes the graphs.

    Attributes:
        name: as users type it.
        device: its kind and index.
        providers: what a session takes, the chosen one first.
        notes: what is not as it might be, one sentence each.
    """

    name: str
    device: tuple[str, int]
    providers: list[str | tuple[str, dict[str, str]]]
    notes: list[str] = field(default_factory=list)

    @property
    def writes_in_place(self) -> bool:
        """Whether an output may be given the memory of the input that it grows out of. TensorRT wants both
        apart.
        """
        return self.name in ("cpu", "cuda")

    def check(self, session: onnxruntime.InferenceSession) -> None:
        """Raise `BackendError` where ONNX Runtime made a session without the provider, as it does where the
        provider's libraries do not load.
        """
        wanted, got = _EXECUTION_PROVIDERS[self.name], session.get_providers()
        if wanted not in got:
            raise BackendError(
                f"provider {self.name!r}: ONNX Runtime could not load {wanted} and took {', '.join(got)}; "
                "its log says which library is missing; install that, or leave out provider"
            )


def choose_provider(provider: str | None, device: str | None, model: str, compute_dtype: str) -> Choice:
    """Return the provider that was asked for, or the best there is for the device.

    Args:
        provider: one of `PROVIDERS`; None: "cuda" where there is a GPU and the device does not say cpu.
        device: "cpu", "cuda" or "cuda:N"; None: what the provider runs on.
        model: digest of the bundle, which what is built is kept for.
        compute_dtype: of the bundle's graphs.

    Raises:
        InputError: an unknown provider or device, or two that do not go together.
        BackendError: the installed ONNX Runtime does not have the provider.
    """
    if provider is not None and provider not in PROVIDERS:
        raise InputError(f"provider is {quoted(provider)}; valid: {', '.join(PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    asked = None if device is None else parse_device(device)
    wanted = f"device {device!r}" if provider is None else f"provider {provider!r}"
    if provider is None:
        on_gpu = _EXECUTION_PROVIDERS["cuda"] in available if asked is None else asked[0] == "cuda"
        provider = "cuda" if on_gpu else "cpu"
    kind = "cpu" if provider == "cpu" else "cuda"
    if asked is not None and asked[0] != kind:
        raise InputError(
            f"provider {provider!r} runs on {kind}, the device is {device!r}; leave one of them out"
        )
    if _EXECUTION_PROVIDERS[provider] not in available:
        raise BackendError(
            f"{wanted}: this ONNX Runtime has no {_EXECUTION_PROVIDERS[provider]} (it has "
            f"{', '.join(available)}); install onnxruntime-gpu in place of onnxruntime, or use device 'cpu'"
        )
    index = 0 if asked is None else asked[1]
    choice = Choice(provider, (kind, index), ["CPUExecutionProvider"])
    if kind == "cuda":
        # float32 products are to be float32: the router's decide which experts are chosen.
        choice.providers.insert(0, (_EXECUTION_PROVIDERS["cuda"], {"device_id": str(index), "use_tf32": "0"}))
    if provider in ("tensorrt", "nv-tensorrt-rtx"):
        options = {"device_id": str(index)} | _cache_options(choice, model, compute_dtype)
        choice.providers.insert(0, (_EXECUTION_PROVIDERS[provider], options))
    return choice


def _cache_options(choice: Choice, model: str, compute_dtype: str) -> dict[str, str]:
    """Return the options of TensorRT's providers, and make the folder that they name."""
    options = {}
    if choice.name == "tensorrt" and compute_dtype != "float32":
        options[{"float16": "trt_fp16_enable", "bfloat16": "trt_bf16_enable"}[compute_dtype]] = "1"
    key = json.dumps([model, onnxruntime.__version__, choice.name]).encode()
    folder = user_cache("onnxruntime") / hashlib.sha256(key).hexdigest()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = why_foreign_folder(folder)
    except OSError as fault:
        reason = str(fault.strerror)
    if reason:
        choice.notes.append(f"engines of provider {choice.name!r} are not kept: {folder}: {reason}")
        return options
    if choice.name == "nv-tensorrt-rtx":
        return options | {"nv_runtime_cache_path": str(folder)}
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
