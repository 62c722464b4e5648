"""Messages → a prompt, by a Jinja template, without letting a message speak with control tokens.

The template writes control tokens, and they are read as such; what stands in a message is text, whatever it
looks like. So a control token's text inside a message is set aside before the template is rendered, and
encoded as plain characters after it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from ttc.base.distribution import install
from ttc.errors import InputError, MissingDependencyError
from ttc.formats.strictjson import quoted
from ttc.model.config import ModelConfig
from ttc.runtime.text import without_control_tokens
from ttc.serving.wire.errors import FieldError

__all__ = ["ChatTemplate"]

# A character of private use marks the places; where a user writes it, it is set aside as well.
_MARK = "\ue000"


class ChatTemplate:
    """One template for one tokenizer."""

    def __init__(self, text: str, tokenizer: Tokenizer, config: ModelConfig) -> None:
        try:
            from jinja2.exceptions import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ModuleNotFoundError:
            raise MissingDependencyError(f"chat templates need jinja2; run: {install('serve')}") from None
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self._faults = TemplateError
        try:
            self._template = environment.from_string(text)
        except TemplateError as fault:
            raise InputError(f"the chat template is not valid: {fault}") from None
        self._tokenizer, self._plain = tokenizer, without_control_tokens(tokenizer)
        self._names = {
            "bos_token": _name(tokenizer, config.bos_token_id),
            "eos_token": _name(tokenizer, config.eos_token_ids[0] if config.eos_token_ids else None),
        }
        control = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        ordered = sorted({*control, _MARK}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, ordered)))

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Return the token ids of a chat, up to where the answer begins.

        Raises:
            FieldError: the template refuses these messages.
        """
        aside: list[str] = []

        def set_aside(match: re.Match[str]) -> str:
            aside.append(match[0])
            return f"{_MARK}{len(aside) - 1}{_MARK}"

        safe = [
            {name: self._control.sub(set_aside, text) for name, text in message.items()}
            for message in messages
        ]
        try:
            text = self._template.render(messages=safe, add_generation_prompt=True, **self._names)
        except self._faults as fault:
            raise FieldError(
                f"the chat template refuses the messages: {quoted(str(fault))}", "messages"
            ) from None
        ids: list[int] = []
        # Pieces of the template's text and the places of what was set aside, in turns.
        for i, piece in enumerate(re.split(f"{_MARK}(\\d+){_MARK}", text)):
            if i % 2:
                ids += self._plain.encode(aside[int(piece)], add_special_tokens=False).ids
            elif piece:
                ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        if not ids:
            raise FieldError("the chat template makes an empty prompt of these messages", "messages")
        return tuple(ids)


def _name(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.id_to_token(token) or ""


def _refuse(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
