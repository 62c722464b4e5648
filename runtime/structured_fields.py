"""Structured output as clients of other servers ask for it → our options.

OpenAI has `response_format`; vLLM has `structured_outputs`, and had `guided_json`, `guided_regex` and
`guided_choice` before.
"""

from collections.abc import Mapping
from typing import Any

from ttc.errors import InputError
from ttc.formats.strictjson import Fields, quoted

__all__ = ["STRUCTURED_FIELDS", "structured_options"]

_GUIDED = {"guided_json": "json_schema", "guided_regex": "regex", "guided_choice": "one_of"}
# The fields of a request that `structured_options` reads.
STRUCTURED_FIELDS = ("response_format", "structured_outputs", *_GUIDED)
_ANY_OBJECT = {"type": "object"}


def structured_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options `json_schema`, `regex` or `one_of` that a request's fields ask for; {} for none.

    Args:
        fields: of a JSON request; those not in `STRUCTURED_FIELDS` are left alone, and null means not given.

    Raises:
        InputError: a field is not as its API says, asks for what there is not, or several ask at once. The
            grammars themselves are checked where the options are.
    """
    asked: dict[str, dict[str, Any]] = {}
    for name in STRUCTURED_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if name == "response_format":
            options = _response_format(value)
        elif name == "structured_outputs":
            options = _structured_outputs(value)
        else:
            options = {_GUIDED[name]: value}
        if options:
            asked[name] = options
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)} are given; a text follows one of them")
    return next(iter(asked.values()), {})


def _response_format(value: object) -> dict[str, Any]:
    fields = Fields(value, "response_format", InputError)
    kind = fields.take("type")
    if kind == "json_schema":
        schema = fields.fields("json_schema")
        options = {"json_schema": _schema(schema.take("schema"), "response_format: json_schema: schema")}
        # A name and a description are for other models; every schema is followed strictly here.
        for name in set(schema.left()) & {"name", "description", "strict"}:
            schema.take(name)
        schema.end()
    elif kind == "json_object":
        options = {"json_schema": _ANY_OBJECT}
    elif kind == "text":
        options = {}
    else:
        raise InputError(
            f"response_format: type is {quoted(kind)}; valid: 'text', 'json_object', 'json_schema'"
        )
    fields.end()
    return options


def _structured_outputs(value: object) -> dict[str, Any]:
    fields = Fields(value, "structured_outputs", InputError)
    options: dict[str, Any] = {}
    for name in fields.left():
        given = fields.take(name)
        if given is None:
            continue
        if name == "json":
            options["json_schema"] = given
        elif name == "regex":
            options["regex"] = given
        elif name == "choice":
            options["one_of"] = given
        elif name == "json_object":
            if not isinstance(given, bool):
                raise InputError(f"structured_outputs: json_object is {quoted(given)}; valid: true, false")
            options |= {"json_schema": _ANY_OBJECT} if given else {}
        else:
            raise InputError(
                f"structured_outputs: {quoted(name)} is not available; "
                "valid: json, json_object, regex, choice"
            )
    if len(options) > 1:
        raise InputError(f"structured_outputs asks for {' and '.join(options)}; a text follows one of them")
    return options


def _schema(value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {quoted(value)}; valid: a JSON schema as an object")
    return value
