"""JSON → what a request asks for. A field that is unknown, or cannot be honoured, is refused by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ttc.errors import InputError
from ttc.formats.strictjson import parse_json, quoted
from ttc.runtime.structured_fields import STRUCTURED_FIELDS, structured_options
from ttc.serving.wire.errors import FieldError

__all__ = ["MAX_PROMPTS", "Ask", "Defaults", "Prompt", "read_chat", "read_completion", "read_object"]

Prompt = str | tuple[int, ...]
MAX_PROMPTS = 128
_MAX_PRIORITY = 100
_MAX_DEADLINE_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Defaults:
    """What stands for a field that a request leaves out."""

    mode: str = "diffusion"
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for text, read.

    Attributes:
        prompts: texts or token ids; of a chat none yet.
        messages: of a chat.
        options: by name, as `Engine.generate` takes them; ranges are checked there.
        n: texts per prompt.
        stream, include_usage, continuous_usage: how the answer comes.
        echo: whether the prompt stands before the text.
        logprobs: whether the tokens' log-probabilities are wanted.
        token_ids: whether token ids are wanted.
        priority: higher ones start first.
        model: as the request names it.
    """

    prompts: tuple[Prompt, ...] = ()
    messages: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    echo: bool = False
    logprobs: bool = False
    token_ids: bool = False
    priority: int = 0
    model: str | None = None


Read = Callable[[str, Any], Any]


def _integer(low: int, high: int) -> Read:
    def read(name: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)  # some clients write 16.0
        if type(value) is not int or not low <= value <= high:
            raise FieldError(f"{name} is {quoted(value)}; valid: an integer from {low} to {high}", name)
        return value

    return read


def _number(low: float, high: float) -> Read:
    def read(name: str, value: Any) -> float:
        # An integer may be too large for a float; the comparison is exact all the same.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise FieldError(f"{name} is {quoted(value)}; valid: a number from {low:g} to {high:g}", name)
        return float(value)

    return read


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldError(f"{name} is {quoted(value)}; valid: true or false", name)
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{name} is {quoted(value)}; valid: a text", name)
    return value


def _stop(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    fits = isinstance(texts, list) and len(texts) <= 4
    if not fits or not all(isinstance(text, str) and text for text in texts):
        raise FieldError(f"{name} is {quoted(value)}; valid: a text, or up to 4 of them, none empty", name)
    return tuple(texts)


def _draft_steps(name: str, value: Any) -> int | str:
    if value == "auto":
        return "auto"
    steps: int = _integer(1, 512)(name, value)
    return steps


def _neutral(*values: Any) -> Read:
    """Read a field that other services have: what changes nothing passes, all else is refused."""

    def read(name: str, value: Any) -> None:
        if not any(value == same and isinstance(value, bool) == isinstance(same, bool) for same in values):
            raise FieldError(
                f"{name} is not supported (only {quoted(values[0])}, which changes nothing)", name
            )

    return read


# Fields that are options of the engine, under the option's own name …
_OPTIONS: Mapping[str, tuple[str, Read]] = {
    "mode": ("mode", _text),
    "threshold": ("threshold", _number(0.0, 1.0)),
    "steps": ("steps", _integer(1, 2**31 - 1)),
    "block_size": ("block_size", _integer(1, 512)),
    "draft_steps": ("draft_steps", _draft_steps),
    "finish_early": ("finish_early", _switch),
    "seed": ("seed", _integer(0, 2**63 - 1)),
    "temperature": ("temperature", _number(0.0, 1e4)),
    "top_k": ("top_k", _integer(1, 2**31 - 1)),
    "top_p": ("top_p", _number(0.0, 1.0)),
    "min_tokens": ("min_tokens", _integer(0, 2**31 - 1)),
    "skip_special_tokens": ("skip_special_tokens", _switch),
    "stop": ("stop", _stop),
    # … or under OpenAI's.
    "max_tokens": ("max_new_tokens", _integer(0, 2**31 - 1)),
    "max_completion_tokens": ("max_new_tokens", _integer(0, 2**31 - 1)),
}
# Fields of the service itself, in both kinds of request.
_COMMON: Mapping[str, Read] = {
    "model": _text,
    "n": _integer(1, MAX_PROMPTS),
    "stream": _switch,
    "stream_options": lambda name, value: value,
    "ignore_eos": _switch,
    "deadline_ms": _number(0.0, _MAX_DEADLINE_MS),
    "priority": _integer(-_MAX_PRIORITY, _MAX_PRIORITY),
    "return_token_ids": _switch,
    "user": _text,
}
# Read together, since they say the same in several ways.
_STRUCTURED: Mapping[str, Read] = dict.fromkeys(STRUCTURED_FIELDS, lambda name, value: value)
_NEUTRAL: Mapping[str, Read] = {
    "frequency_penalty": _neutral(0),
    "presence_penalty": _neutral(0),
    "repetition_penalty": _neutral(1),
    "min_p": _neutral(0),
    "logit_bias": _neutral({}),
}


def read_completion(raw: bytes, defaults: Defaults) -> Ask:
    """Return what the body of a /v1/completions asks for."""
    given = read_object(raw)
    return _read(given, "prompt", _COMPLETION, defaults)


def read_chat(raw: bytes, defaults: Defaults) -> Ask:
    """Return what the body of a /v1/chat/completions asks for."""
    given = read_object(raw)
    return _read(given, "messages", _CHAT, defaults)


def read_object(raw: bytes) -> dict[str, Any]:
    """Return a body's JSON object, without the fields that are null."""
    value = parse_json(raw, "the body", InputError)
    if not isinstance(value, dict):
        raise InputError(f"the body is {quoted(value)}; valid: a JSON object")
    return {name: item for name, item in value.items() if item is not None}


def _read(given: dict[str, Any], due: str, own: Mapping[str, Read], defaults: Defaults) -> Ask:
    readers = (
        {name: read for name, (_, read) in _OPTIONS.items()} | dict(_COMMON) | dict(_NEUTRAL) | dict(own)
    )
    if unknown := sorted(set(given) - set(readers)):
        raise FieldError(
            f"unknown field {quoted(unknown[0])}; the documentation lists what there is", unknown[0][:100]
        )
    if due not in given:
        raise FieldError(f"{due} is missing", due)
    read = {name: readers[name](name, value) for name, value in given.items()}
    if read.get("stream") and read.get("echo") and "logprobs" in read:
        raise FieldError("logprobs of an echoed prompt are not streamed; ask without stream", "logprobs")
    usage = _stream_options(read.get("stream_options"), stream=read.get("stream", False))
    return Ask(
        prompts=read.get("prompt", ()),
        messages=read.get("messages", ()),
        options=_options(read, defaults),
        n=read.get("n", 1),
        stream=read.get("stream", False),
        include_usage=usage.get("include_usage", False),
        continuous_usage=usage.get("continuous_usage_stats", False),
        echo=read.get("echo", False),
        logprobs=read.get("logprobs", False) is not False,
        token_ids=read.get("return_token_ids", False),
        priority=read.get("priority", 0),
        model=read.get("model"),
    )


def _options(read: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    if read.get("max_tokens", read.get("max_completion_tokens")) != read.get(
        "max_completion_tokens", read.get("max_tokens")
    ):
        raise FieldError("max_tokens and max_completion_tokens differ; give one", "max_tokens")
    options = {"mode": defaults.mode, "max_new_tokens": defaults.max_tokens}
    options |= {option: read[name] for name, (option, _) in _OPTIONS.items() if name in read}
    options |= structured_options(read)
    if options.get("top_p") == 1.0:
        del options["top_p"]  # filters nothing, and clients send it unasked
    if read.get("ignore_eos"):
        options["stop_at_eos"] = False
    if "deadline_ms" in read:
        options["deadline"] = read["deadline_ms"] / 1000
    return options


def _stream_options(value: Any, *, stream: bool) -> dict[str, bool]:
    name = "stream_options"
    if value is None:
        return {}
    if not isinstance(value, dict) or not stream:
        raise FieldError(f"{name} is for a request with stream true, and a JSON object", name)
    for key, item in value.items():
        if key not in ("include_usage", "continuous_usage_stats"):
            raise FieldError(f"unknown field {quoted(key)} of {name}", name)
        _switch(f"{name}.{key}", item)
    return value


def _few_logprobs(name: str, value: Any) -> int:
    """OpenAI's count of alternatives: one is the token itself, more are not kept."""
    if type(value) is not int or not 0 <= value <= 1:
        raise FieldError(
            f"{name} is {quoted(value)}; valid: 0 or 1 (of the token itself, no alternatives)", name
        )
    return value


def _prompts(name: str, value: Any) -> tuple[Prompt, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise FieldError(f"{name} is {quoted(value)}; valid: text, texts, token ids, or lists of those", name)
    items = [value] if _is_ids(value) else value
    if len(items) > MAX_PROMPTS:
        raise FieldError(f"{name} has {len(items)} prompts; valid: up to {MAX_PROMPTS}", name)
    for i, item in enumerate(items):
        if item is not value and not isinstance(item, str) and not _is_ids(item):
            raise FieldError(f"{name} {i} is {quoted(item)}; valid: text, or a list of token ids", name)
    return tuple(item if isinstance(item, str) else tuple(item) for item in items)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) == {int}


def _messages(name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise FieldError(f"{name} is {quoted(value)}; valid: a list of messages", name)
    return tuple(_message(f"{name}[{i}]", message) for i, message in enumerate(value))


def _message(name: str, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise FieldError(f"{name} is {quoted(message)}; valid: an object with role and content", name)
    if unknown := sorted(set(message) - {"role", "content", "name"}):
        raise FieldError(f"{name} has an unknown field {quoted(unknown[0])}", name)
    content = message.get("content")
    if isinstance(content, list):  # parts, of which only text can be read
        for part in content:
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                raise FieldError(f"{name}.content has a part {quoted(part)}; valid: text parts", name)
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise FieldError(f"{name}.content is {quoted(content)}; valid: a text, or text parts", name)
    return {"role": message["role"], "content": content}


# Fields of one kind of request; the readers stand above.
_COMPLETION: Mapping[str, Read] = {
    "prompt": _prompts,
    "echo": _switch,
    "logprobs": _few_logprobs,
    "best_of": _neutral(1),
    "suffix": _neutral(""),
}
_CHAT: Mapping[str, Read] = {
    "messages": _messages,
    "logprobs": _switch,
    "top_logprobs": _few_logprobs,
    "tools": _neutral([]),
    "tool_choice": _neutral("none"),
    "parallel_tool_calls": _neutral(False, True),
    "store": _neutral(False),
    "metadata": _neutral({}),
}
