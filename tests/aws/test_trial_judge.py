"""The function that judges trials, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from runctl.aws.trial_judge import TrialJudge
from runctl.model.errors import RefusedError, RunctlError, TransientError, UnexpectedAwsError
from tests.agent.doubles import Double

IDENTITY = {"url": "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity"}


class Function(Double):
    """Answers as a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.body = b'{"goes_on": true}'
        self.headers: dict[str, str] = {}
        super().__init__()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        assert "/functions/judge/" in path
        self.events.append(json.loads(body))
        return 200, self.body, self.headers


@pytest.fixture
def function() -> Iterator[Function]:
    double = Function()
    yield double
    double.close()


def ask(function: Function) -> bool:
    client = boto3.client(
        "lambda",
        endpoint_url=function.url,
        region_name="us-east-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
    )
    judge = TrialJudge(lambda _service: client, prove=lambda: IDENTITY)
    return judge.goes_on("judge", "search-0001", rung=3, value=0.5)


@pytest.mark.parametrize("goes_on", [True, False])
def test_it_asks_with_the_identity_of_the_instance(function: Function, goes_on: bool) -> None:
    function.body = json.dumps({"run_id": "search-0001", "rung": 3, "goes_on": goes_on}).encode()
    assert ask(function) is goes_on
    assert function.events == [
        {"run_id": "search-0001", "rung": 3, "value": 0.5, "identity": IDENTITY}
    ]


def test_a_refusal_names_its_reason(function: Function) -> None:
    function.body = json.dumps({"status": "refused", "reason": "run_id: not yours"}).encode()
    with pytest.raises(RefusedError, match="judge refused to answer: run_id: not yours"):
        ask(function)


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        (b'{"errorType": "TransientError"}', {"X-Amz-Function-Error": "Unhandled"}, TransientError),
        (b"no JSON", {}, UnexpectedAwsError),
        (b"[]", {}, UnexpectedAwsError),
        (b"null", {}, UnexpectedAwsError),
        (b'{"status": "issued"}', {}, UnexpectedAwsError),
    ],
)
def test_what_is_no_answer_is_an_error(
    function: Function, body: bytes, headers: dict[str, str], error: type[RunctlError]
) -> None:
    function.body, function.headers = body, headers
    with pytest.raises(error):
        ask(function)
