"""The function that issues credentials, asked over HTTP, and what is made of its answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from runctl.aws.clients import Clients, Connection
from runctl.aws.credentials_function import (
    Issued,
    Over,
    Refused,
    Unknown,
    read_answer,
)
from runctl.aws.instance_access import InstanceAccess, credentials_function, open_access
from runctl.aws.permissions import find_problem
from runctl.model.errors import (
    FencedError,
    RefusedError,
    SettingsError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.node import NodeId
from tests.agent.doubles import CredentialsDouble, Double, MetadataDouble

NODE = NodeId("lm", 3, 1)
ISSUED = {
    "status": "issued",
    "run_id": "lm",
    "attempt": 3,
    "rank": 1,
    "credentials": {
        "access_key": "ASIA",
        "secret_key": "very-secret",
        "token": "token",
        "expires_at": "2030-01-31T18:00:00Z",
    },
}


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[MetadataDouble]:
    double = MetadataDouble()
    for name in ("AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    # A machine of somebody may have both; neither is of any concern.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFTHEUSER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", double.url)
    yield double
    double.close()


@pytest.fixture
def function(
    metadata: MetadataDouble, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CredentialsDouble]:
    double = CredentialsDouble(lambda _instance_id: NODE)
    for name, value in double.variables("i-1").items():
        monkeypatch.setenv(name, value)
    yield double
    double.close()


class Service(Double):
    """Any service of AWS: notes who calls, and refuses the first calls as expired."""

    def __init__(self, expired: int = 0, code: str = "ExpiredTokenException") -> None:
        self.callers: list[str] = []
        self.expired, self.code = expired, code
        super().__init__()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        self.callers.append(headers["Authorization"].split("Credential=")[1].split("/")[0])
        if self.expired:
            self.expired -= 1
            return 400, json.dumps({"__type": self.code, "message": "expired"}).encode(), {}
        return 200, b'{"TableNames": []}', {}


def test_an_instance_proves_who_it_is_with_its_role_and_nothing_else(function):
    answer = credentials_function().ask("agent")
    assert isinstance(answer, Issued)
    assert answer.node == NODE
    (event,) = function.events
    assert sorted(event) == ["identity", "purpose"]
    url = urlsplit(event["identity"]["url"])
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert (url.scheme, url.netloc, url.path) == ("https", "sts.us-east-1.amazonaws.com", "/")
    assert query["Action"] == "GetCallerIdentity"
    assert query["X-Amz-Credential"].startswith("AKIDEXAMPLE/")
    assert query["X-Amz-SignedHeaders"] == "host;x-runctl-deployment"
    assert query["X-Amz-Expires"] == "60"
    assert "not-a-secret" not in json.dumps(event)


def test_the_identity_is_signed_for_one_deployment(function, monkeypatch):
    credentials_function().ask("agent")
    url = function.events[0]["identity"]["url"]
    query = parse_qs(urlsplit(url).query)

    def signature(deployment: str) -> str:
        request = AWSRequest(
            method="GET",
            url="https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
            headers={"x-runctl-deployment": deployment},
        )
        at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(
            tzinfo=timezone.utc
        )
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: at)
        role = Credentials("AKIDEXAMPLE", "not-a-secret", "session-token")
        SigV4QueryAuth(role, "sts", "us-east-1", expires=60).add_auth(request)
        return parse_qs(urlsplit(request.url).query)["X-Amz-Signature"][0]

    assert query["X-Amz-Signature"][0] == signature("test")
    assert query["X-Amz-Signature"][0] != signature("other")


def test_another_endpoint_of_sts_is_that_of_the_settings(function, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566/")
    credentials_function().ask("agent")
    assert function.events[0]["identity"]["url"].startswith("http://127.0.0.1:4566/?Action=")


def test_an_instance_that_is_unknown_says_for_which_attempt_it_was_launched(function):
    claim = {"run_id": "lm", "attempt": 3}
    function.find = lambda _instance_id: None
    asking = credentials_function(claim=lambda: claim)
    assert [asking.ask("agent") for _ in range(2)] == [Unknown(), Unknown()]
    function.find = lambda _instance_id: NODE
    asking.ask("agent")
    asking.ask("agent")
    assert [event.get("claimed") for event in function.events] == [None, claim, claim, None]


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        ({"status": "unknown", "new_field": 1}, Unknown()),
        ({"status": "over", "reason": "the run has ended"}, Over("the run has ended")),
        ({"status": "over"}, Over("")),
        ({"status": "refused", "reason": "not ours", "code": 7}, Refused("not ours")),
    ],
)
def test_answers_without_a_session(document, answer):
    assert read_answer(document) == answer


def test_a_session_is_read_with_fields_that_are_not_known_and_without_a_rank():
    document = {name: value for name, value in ISSUED.items() if name != "rank"}
    answer = read_answer({**document, "policy": {}})
    assert isinstance(answer, Issued)
    assert answer.node == NodeId("lm", 3, 0)
    assert answer.credentials.expires_at == datetime(2030, 1, 31, 18, tzinfo=timezone.utc)
    assert "very-secret" not in repr(answer)
    assert "token='" not in repr(answer)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "issued",
        {},
        {"status": "new"},
        {"status": ["issued"]},
        {"status": "issued"},
        {**ISSUED, "credentials": None},
        {**ISSUED, "credentials": {**ISSUED["credentials"], "token": ""}},
        {**ISSUED, "credentials": {**ISSUED["credentials"], "expires_at": "soon"}},
        {**ISSUED, "attempt": "x"},
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_that_shows_no_secret(document):
    with pytest.raises(UnexpectedAwsError) as caught:
        read_answer(document)
    assert "very-secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_settings_without_the_function_are_refused():
    with pytest.raises(SettingsError, match=r"agent\.env lacks RUNCTL_CREDENTIALS_FUNCTION"):
        open_access({"RUNCTL_REGION": "us-east-1", "RUNCTL_DEPLOYMENT": "d"})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": "over", "reason": "ended"}, FencedError),
        ({"status": "refused", "reason": "no"}, RefusedError),
        ({"status": "unknown"}, TransientError),
    ],
)
def test_a_trainer_gets_no_session_where_its_agent_gets_none(function, answer, error):
    function.refusals["trainer"] = answer
    with pytest.raises(error):
        credentials_function().session_of_trainer()
    function.refusals.clear()
    assert credentials_function().session_of_trainer().access_key.startswith("ASIATRAINER")


def test_throttling_and_an_instance_without_a_role_are_worth_another_try(
    function, metadata, monkeypatch
):
    function.failures = [429, 429, 429, 429]
    with pytest.raises(TransientError):
        credentials_function().ask("agent")
    monkeypatch.setattr("runctl.aws.instance_identity.PAUSE", 0)
    metadata.has_credentials = False
    with pytest.raises(TransientError, match="no credentials of a role"):
        credentials_function().ask("agent")


def clients_at(access: InstanceAccess, service: Service) -> Clients:
    connection = Connection(
        region="us-east-1", endpoint_url=service.url, credentials=access.credentials
    )
    return Clients(connection, attempts=2)


def test_clients_sign_with_the_session_and_never_with_the_role(function):
    service = Service()
    clients_at(open_access(), service).get("dynamodb").list_tables()
    assert service.callers == ["ASIAAGENT1"]
    service.close()


def test_a_request_that_aws_calls_expired_is_repeated_once_with_a_new_session(
    function, monkeypatch
):
    monkeypatch.setattr("runctl.aws.issued_credentials.NEW", timedelta(0))
    service = Service(expired=1)
    client = clients_at(open_access(), service).get("dynamodb")
    client.list_tables()
    assert service.callers == ["ASIAAGENT1", "ASIAAGENT2"]
    service.expired = 9
    with pytest.raises(client.exceptions.ClientError, match="ExpiredToken"):
        client.list_tables()
    assert len(service.callers) == 4
    service.close()


@pytest.mark.parametrize(
    ("code", "callers"),
    [
        ("UnrecognizedClientException", ["ASIAAGENT1", "ASIAAGENT2"]),
        ("InvalidClientTokenId", ["ASIAAGENT1", "ASIAAGENT2"]),
        ("AccessDeniedException", ["ASIAAGENT1"]),
    ],
)
def test_a_session_that_an_upgrade_has_ended_with_its_role_is_replaced(
    function, monkeypatch, code: str, callers: list[str]
):
    monkeypatch.setattr("runctl.aws.issued_credentials.NEW", timedelta(0))
    service = Service(expired=1, code=code)
    client = clients_at(open_access(), service).get("dynamodb")
    with contextlib.suppress(client.exceptions.ClientError):
        client.list_tables()
    assert service.callers == callers
    service.close()


def test_errors_of_the_session_reach_the_caller_as_they_are(function):
    function.refusals["agent"] = {"status": "refused", "reason": "the role is another one"}
    service = Service()
    client = clients_at(open_access(), service).get("dynamodb")
    with pytest.raises(RefusedError, match="the role is another one"):
        client.list_tables()
    assert service.callers == []
    service.close()


def test_a_check_of_an_existing_instance_asks_the_function(function):
    function.find = lambda _instance_id: None
    assert find_problem(credentials_function()) == ""
    function.refusals["agent"] = {"status": "over", "reason": "the run has ended"}
    assert find_problem(credentials_function()) == ""
    function.refusals["agent"] = {"status": "refused", "reason": "the role is another one"}
    assert "would get no credentials: the role is another one" in find_problem(
        credentials_function()
    )
    function.refusals.clear()
    function.failures = [403]
    assert "lacks lambda:InvokeFunction on issue-i-1" in find_problem(credentials_function())
