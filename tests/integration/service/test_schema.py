"""The API against its own document: generated requests get documented answers, and never a 5xx."""

from contextlib import suppress
from itertools import product

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.service.conftest import House

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
QUICK = settings(
    max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def test_generated_requests(steady: House) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", steady.app)
    headers = {**steady.auth("admin"), "Tus-Resumable": "1.0.0"}
    tried = 0
    for found, mode in product(schema.get_all_operations(), GenerationMode):
        operation = found.ok()

        @QUICK
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)

        with suppress(Unsatisfiable):
            check()
            tried += 1
    assert tried > 24
