"""Fields of other servers' requests, and the options that they become."""

import pytest

from ttc.errors import InputError
from ttc.runtime.decoding.grammar import read_grammar
from ttc.runtime.structured_fields import STRUCTURED_FIELDS, structured_options

SCHEMA = {"type": "integer"}
OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"prompt": "x", "max_tokens": 3}, {}),
        (dict.fromkeys(STRUCTURED_FIELDS), {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": OBJECT}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "description": "d", "strict": True, "schema": SCHEMA},
                }
            },
            {"json_schema": SCHEMA},
        ),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, {"regex": "a"}),
        ({"guided_json": '{"type": "integer"}'}, {"json_schema": '{"type": "integer"}'}),
        ({"guided_choice": ["a", "b"]}, {"one_of": ["a", "b"]}),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a"]}}, {"one_of": ["a"]}),
        ({"structured_outputs": {"json_object": True}}, {"json_schema": OBJECT}),
        ({"structured_outputs": {"json_object": False}}, {}),
    ],
)
def test_fields_become_options(fields, options):
    found = structured_options(fields)
    assert found == options
    checked = read_grammar(found.get("json_schema"), found.get("regex"), found.get("one_of"))
    assert (checked is None) == (not options)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": "json"}, "response_format: a JSON object is due here, found 'json'"),
        ({"response_format": {}}, "the key 'type' is missing"),
        ({"response_format": {"type": "xml"}}, "type is 'xml'; valid: 'text', 'json_object', 'json_schema'"),
        ({"response_format": {"type": ["json_object"]}}, r"type is \['json_object'\]; valid"),
        ({"response_format": {"type": "json_schema"}}, "the key 'json_schema' is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "'schema' is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": True}}}, "schema is True"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "unknown key.*'schema'"),
        ({"structured_outputs": {"grammar": "x"}}, "'grammar' is not available; valid: json, json_object"),
        ({"structured_outputs": {"json_object": 1}}, "json_object is 1; valid: true, false"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "asks for json_schema and regex"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_json and guided_regex are given"),
    ],
)
def test_what_is_refused(fields, said):
    with pytest.raises(InputError, match=said) as caught:
        structured_options(fields)
    assert "\n" not in str(caught.value)
