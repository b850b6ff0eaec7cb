"""Every code has one status and title, and every problem one shape."""

import json

import pytest

from service.problems import RETRY_AFTER, STATUS, Problem, respond
from xmag.errors import Code


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_its_problem(code: Code) -> None:
    response = respond(code, "do this next", "5a1e3d0c-5f0e-4f6e-9d1b-1f4c8f1f2b7a")
    problem = Problem.model_validate(json.loads(bytes(response.body)))
    assert (problem.code, problem.status) == (code, response.status_code)
    assert response.media_type == "application/problem+json"
    assert ("retry-after" in response.headers) == (code in RETRY_AFTER)


def test_the_table_is_complete() -> None:
    assert set(STATUS) == set(Code)
