"""Random requests made from the OpenAPI description: no 5xx but 503 and 504, nothing hung, no row left."""

import os
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.support.service import Running, until
from ttc.serving.wire import fields, openapi

ALLOWED = {200, 400, 401, 404, 405, 408, 413, 429, 503, 504}
# Random requests of each kind to each path. With 160 they are more than 2000 in all:
# TTC_SCHEMA_EXAMPLES=160 python -m pytest tests/serving/test_schema.py
EXAMPLES = int(os.environ.get("TTC_SCHEMA_EXAMPLES", "8"))


def test_the_description_names_every_field() -> None:
    """No more and no fewer than are read."""
    paths = openapi.openapi()["paths"]
    common = {*fields._OPTIONS, *fields._COMMON, *fields._STRUCTURED, *fields._NEUTRAL}
    for path, own in (
        ("/v1/completions", fields._COMPLETION),
        ("/v1/chat/completions", fields._CHAT),
    ):
        described = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(described["properties"]) == common | set(own)


@pytest.mark.parametrize("kind", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_random_requests(served: Running, kind: GenerationMode) -> None:
    api = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    statuses: Counter[int] = Counter()
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:
        if kind is GenerationMode.NEGATIVE and operation.method.upper() != "POST":
            continue  # nothing of these can be wrong

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=kind))
        def check(case: schemathesis.Case) -> None:
            answer = case.call(timeout=30)
            statuses[answer.status_code] += 1
            assert answer.status_code in ALLOWED, answer.text

        check()
    assert statuses[400]
    assert statuses.total() >= EXAMPLES * 5, statuses
    until(lambda: served.core.idle)
    assert served.service.ready
