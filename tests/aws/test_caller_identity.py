"""Only a fresh, presigned GetCallerIdentity for this deployment is a proof of an identity."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from runctl.aws.caller_identity import HEADER, MAX_ANSWER_BYTES, CallerIdentities, regional_endpoint
from runctl.model.caller import BadIdentityError, Caller
from runctl.model.errors import TransientError

NAME = "runctl"
ENDPOINT = "https://sts.eu-west-1.amazonaws.com"
CALL = "Action=GetCallerIdentity&Version=2011-06-15"
ARN = "arn:aws:sts::123456789012:assumed-role/InstanceRole/i-0123456789abcdef0"
XML = (
    "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>{}</Arn><UserId>AROA:i-0</UserId>"
    "<Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)


def presign(
    endpoint: str = ENDPOINT,
    *,
    deployment: str | None = NAME,
    expires: int = 60,
    query: str = CALL,
    token: str | None = "token",
    method: str = "GET",
    **headers: str,
) -> str:
    if deployment is not None:
        headers[HEADER] = deployment
    request = AWSRequest(method=method, url=f"{endpoint}/?{query}", headers=headers)
    credentials = Credentials("AKID", "secret", token)
    SigV4QueryAuth(credentials, "sts", "eu-west-1", expires=expires).add_auth(request)
    assert request.url is not None
    return request.url


class Refusing(CallerIdentities):
    """Fails the test if a request is sent."""

    def _connect(self):
        raise AssertionError("a request was sent")


def identities(**changes) -> Refusing:
    return Refusing(**{"endpoint": ENDPOINT, "deployment": NAME, **changes})


def test_a_valid_identity_would_be_sent():
    """The refusals below are not for another reason."""
    with pytest.raises(AssertionError, match="a request was sent"):
        identities().verify(presign())


VALID = presign()
OTHERS: dict[str, str] = {
    "another host": presign("https://sts.eu-west-1.amazonaws.com.evil.example"),
    "another region": presign("https://sts.us-east-1.amazonaws.com"),
    "the metadata service": presign("http://169.254.169.254"),
    "no TLS": VALID.replace("https://", "http://"),
    "a user before the host": VALID.replace("https://", "https://sts.eu-west-1.amazonaws.com@"),
    "a host after the host": VALID.replace("amazonaws.com/", "amazonaws.com:443@evil.example/"),
    "a port": VALID.replace("amazonaws.com/", "amazonaws.com:8443/"),
    "a backslash": VALID.replace("amazonaws.com/", "amazonaws.com\\@evil.example/"),
    "a host in capitals": VALID.replace("sts.", "STS."),
    "another path": VALID.replace("amazonaws.com/?", "amazonaws.com/x?"),
    "a path that is normalized": VALID.replace("amazonaws.com/?", "amazonaws.com/x/../?"),
    "a fragment": f"{VALID}#x",
    "a line feed": f"{VALID}\r\nHost: evil.example",
    "a letter that looks alike": VALID.replace("sts", "st\u0455"),
    "another action": presign(query=CALL.replace("GetCallerIdentity", "AssumeRole")),
    "two actions": f"{VALID}&Action=AssumeRole",
    "an action twice": f"{VALID}&Action=GetCallerIdentity",
    "an action in another case": f"{VALID}&action=AssumeRole",
    "another parameter": presign(query=f"{CALL}&RoleArn=x"),
    "a parameter twice": f"{VALID}&X-Amz-Expires=60",
    "a parameter without a value": f"{VALID}&x",
    "many parameters": VALID + "&a=1" * 100,
    "another version": presign(query=CALL.replace("2011", "2012")),
    "no version": presign(query="Action=GetCallerIdentity"),
    "no token of a session": presign(token=None),
    "no signature": VALID.partition("&X-Amz-Signature")[0],
    "no deployment": presign(deployment=None),
    "another signed header": presign(**{"x-other": "1"}),
    "a long life": presign(expires=61),
    "a life that is not a number": VALID.replace("X-Amz-Expires=60", "X-Amz-Expires=6e1"),
    "a life of nothing": VALID.replace("X-Amz-Expires=60", "X-Amz-Expires=0"),
    "nothing": "",
    "no URL": "x",
}


@pytest.mark.parametrize("what", OTHERS)
def test_nothing_else_is_sent(what):
    with pytest.raises(BadIdentityError, match=r"identity\.url"):
        identities().verify(OTHERS[what])


@pytest.mark.parametrize("minutes", [-60, -2, 3, 14, 60])
def test_an_identity_of_another_time_is_refused(minutes):
    def now() -> datetime:
        return datetime.now(timezone.utc) + timedelta(minutes=minutes)

    with pytest.raises(BadIdentityError, match="has expired, or the clock"):
        identities(now=now).verify(presign())


def test_a_date_that_is_no_date_is_refused():
    url = presign()
    date = url.partition("X-Amz-Date=")[2][:16]
    for other in ("20301399T000000Z", "2030-01-01T00:00:00Z", ""):
        with pytest.raises(BadIdentityError, match="X-Amz-Date"):
            identities().verify(url.replace(date, other))


def test_regions_of_china_have_another_domain():
    assert regional_endpoint("eu-west-1") == ENDPOINT
    assert regional_endpoint("cn-north-1") == "https://sts.cn-north-1.amazonaws.com.cn"


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list[BaseHTTPRequestHandler]]]:
    """Serve on the loopback; yield the URL and the requests."""
    seen: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self)
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def saying(status: int, body: bytes, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the caller has read enough
            handler.wfile.write(body)

    return answer


def verify(answer: Answer) -> tuple[Caller, BaseHTTPRequestHandler]:
    with answering(answer) as (url, seen):
        caller = CallerIdentities(endpoint=url, deployment=NAME).verify(presign(url))
    (request,) = seen
    return caller, request


def test_the_caller_is_whom_sts_names_and_the_deployment_is_our_own():
    caller, request = verify(saying(200, XML.format(ARN).encode()))
    assert caller == Caller(
        account="123456789012", role="InstanceRole", session="i-0123456789abcdef0"
    )
    assert request.headers[HEADER] == NAME
    assert urlsplit(request.path).path == "/"


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:iam::123456789012:user/i-0123456789abcdef0",
        "arn:aws:iam::123456789012:root",
        "arn:aws:sts::123456789012:federated-user/i-0123456789abcdef0",
        f"{ARN}</Arn><Arn>{ARN}",
        "",
    ],
)
def test_only_a_session_of_a_role_is_a_caller(arn):
    with pytest.raises(BadIdentityError, match="not signed by a session of a role"):
        verify(saying(200, XML.format(arn).encode()))


def test_redirects_are_not_followed():
    with answering(saying(200, XML.format(ARN).encode())) as (elsewhere, seen):
        with pytest.raises(BadIdentityError, match="302"):
            verify(saying(302, b"", Location=f"{elsewhere}/"))
        assert not seen


def test_a_huge_answer_is_not_read():
    body = XML.format(ARN).encode() + b" " * 10_000_000
    with pytest.raises(BadIdentityError, match=f"more than {MAX_ANSWER_BYTES:,} bytes"):
        verify(saying(200, body))


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_sts_refuses_is_no_identity(status):
    with pytest.raises(BadIdentityError, match="refused by STS"):
        verify(saying(status, b"<Error/>"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_sts_is_asked_again(status):
    with pytest.raises(TransientError, match="retry later"):
        verify(saying(status, b""))


def test_an_answer_that_is_no_http_or_none_at_all_is_transient():
    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"nonsense\r\n\r\n")

    with pytest.raises(TransientError, match="cannot be reached"):
        verify(nonsense)
    with answering(nonsense) as (url, _):
        pass
    with pytest.raises(TransientError, match="cannot be reached"):
        CallerIdentities(endpoint=url, deployment=NAME).verify(presign(url))
