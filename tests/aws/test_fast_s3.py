"""Parts take the fast path once it is known, and are repeated by botocore if it fails."""

from __future__ import annotations

import hashlib
import io
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from urllib3 import HTTPResponse

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import Clients, Connection
from runctl.aws.environments import EnvironmentStore
from runctl.aws.fast_s3.http1 import UnsafeRequestError, request_head
from runctl.aws.parts import PartStore
from runctl.model.checkpoint_entry import Part
from runctl.model.errors import DamagedCheckpointError
from tests.aws.certificates import make_certificate

BODY = b"0123456789" * 300_000  # several times what is received at once


def part_of(content: bytes) -> Part:
    return Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


class Server:
    """Keeps objects; the next request on the fast path may fail."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections: set[tuple[str, int]] = set()
        self.ended = threading.Semaphore(0)
        self.next: Callable[[BaseHTTPRequestHandler, bytes], bool] | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                server.handle(self)

            do_GET = do_PUT = _handle  # noqa: N815

            def log_message(self, *_args: Any) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            def shutdown_request(self, request: Any) -> None:
                super().shutdown_request(request)
                server.ended.release()

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that disconnect in mid-response, which the tests provoke."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.connections.add(request.client_address)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.command, headers))
        if is_fast(headers) and self.next is not None:
            trouble, self.next = self.next, None
            if trouble(request, self.objects.get(request.path, b"")):
                return
        if request.command == "PUT":
            self.objects[request.path] = body
        answer(request, 200, b"" if request.command == "PUT" else self.objects[request.path])

    def ways(self) -> str:
        """Return the path of each request: +, the fast path, or -, botocore."""
        return "".join("+" if is_fast(headers) else "-" for _, headers in self.asked)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def is_fast(headers: dict[str, str]) -> bool:
    """Return whether a request has none of the headers that botocore adds."""
    return "amz-sdk-invocation-id" not in headers


def answer(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def aws() -> None:
    """Do not use moto: the fast path never bypasses a stub of AWS in this process."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def store(server: Server) -> CheckpointStore:
    return store_at(server.url)


def store_at(url: str) -> CheckpointStore:
    connection = Connection(region="eu-west-1", endpoint_url=url, access_key="a", secret_key="s")
    return CheckpointStore(Clients(connection, attempts=2).get("s3"), bucket="bucket", run_id="run")


def put(store: PartStore, *contents: bytes) -> None:
    for content in contents:
        store.put_part(part_of(content), [content[:1], content[1:]])


def get(store: CheckpointStore, content: bytes) -> bytes:
    found = bytearray(len(content))

    def write(offset: int, piece: Any) -> None:
        found[offset : offset + len(piece)] = piece

    store.get_part(part_of(content), write)
    return bytes(found)


def test_only_the_first_part_is_sent_and_received_by_the_client_itself(
    server: Server, store: CheckpointStore
) -> None:
    put(store, b"1", b"2", BODY)
    assert [get(store, content) for content in (b"1", b"2", BODY)] == [b"1", b"2", BODY]
    assert server.ways() == "-+++++"
    assert len(server.connections) == 2


def test_fast_put_is_signed_and_names_the_checksum_and_the_sender(
    server: Server, store: CheckpointStore
) -> None:
    put(store, b"1", b"2")
    (_, ordinary), (_, fast) = server.asked
    assert fast["authorization"].startswith("AWS4-HMAC-SHA256 Credential=a/")
    for name in ("x-amz-checksum-sha256", "x-amz-content-sha256", "x-amz-date"):
        assert name in fast["authorization"]
        assert name in fast
    assert fast["user-agent"] == ordinary["user-agent"]
    assert fast["x-amz-content-sha256"] == ordinary["x-amz-content-sha256"]
    assert fast["host"] == ordinary["host"]


def status(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], bool]:
    def respond(request: BaseHTTPRequestHandler, _content: bytes) -> bool:
        answer(request, code, b"<Error/>")
        return True

    return respond


def half(request: BaseHTTPRequestHandler, content: bytes) -> bool:
    answer(request, 200, content[: len(content) // 2], Content_Length=str(len(content)))
    request.close_connection = True
    return True


def other_bytes(request: BaseHTTPRequestHandler, content: bytes) -> bool:
    answer(request, 200, content[:-1] + b"?")
    return True


def more(request: BaseHTTPRequestHandler, content: bytes) -> bool:
    answer(request, 200, content + b"?")
    return True


def chunked(request: BaseHTTPRequestHandler, content: bytes) -> bool:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))
    return True


def without_length(request: BaseHTTPRequestHandler, content: bytes) -> bool:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(content)
    request.close_connection = True
    return True


def nothing(request: BaseHTTPRequestHandler, _content: bytes) -> bool:
    request.close_connection = True
    return True


def no_head(request: BaseHTTPRequestHandler, _content: bytes) -> bool:
    request.wfile.write(b"x" * 1_000_000)
    request.close_connection = True
    return True


@pytest.mark.parametrize(
    "trouble",
    [status(301), status(400), status(403), status(500), status(503), nothing, no_head],
    ids=["301", "400", "403", "500", "503", "nothing", "no head"],
)
def test_fast_put_that_fails_is_repeated_by_botocore_and_the_next_is_fast_again(
    server: Server, store: CheckpointStore, trouble: Any
) -> None:
    put(store, b"1", b"2")
    server.next = trouble
    put(store, BODY, b"3")
    assert server.ways() == "-++-+"
    assert get(store, BODY) == BODY


def test_fast_put_that_may_replace_nothing_says_so_and_accepts_what_is_there(
    server: Server,
) -> None:
    connection = Connection(
        region="eu-west-1", endpoint_url=server.url, access_key="a", secret_key="s"
    )
    store = EnvironmentStore(Clients(connection, attempts=2).get("s3"), bucket="bucket")

    def refuse(request: BaseHTTPRequestHandler, _: bytes) -> bool:
        answer(request, 412, b"PreconditionFailed")
        return True

    put(store, b"one")
    server.next = refuse
    put(store, b"two", b"three")
    assert server.ways() == "-++"
    assert [headers["if-none-match"] for _, headers in server.asked] == ["*"] * 3
    assert not any(path.endswith(part_of(b"two").sha256) for path in server.objects)


@pytest.mark.parametrize(
    "trouble", [half, other_bytes, more, chunked, without_length, nothing, no_head, status(503)]
)
def test_fast_get_with_an_unexpected_response_is_repeated_by_botocore(
    server: Server, store: CheckpointStore, trouble: Any
) -> None:
    put(store, BODY)
    server.next = trouble
    assert get(store, BODY) == BODY
    assert server.ways() == "-+-"


def test_part_that_is_longer_than_stated_is_never_written_beyond_its_end(
    server: Server, store: CheckpointStore
) -> None:
    put(store, BODY)
    (path,) = server.objects
    server.objects[path] = BODY + BODY
    with pytest.raises(DamagedCheckpointError):
        get(store, BODY)  # whose buffer is as long as the part


def test_content_that_does_not_match_its_name_is_not_sent_by_botocore_either(
    server: Server, store: CheckpointStore
) -> None:
    with pytest.raises(DamagedCheckpointError):
        store.put_part(part_of(b"1"), [b"2"])
    assert server.objects == {}


def test_fast_path_that_always_fails_is_disabled(server: Server, store: CheckpointStore) -> None:
    for number in range(6):
        server.next = status(403)
        put(store, b"%d" % number)
    assert server.ways() == "-" + "+-" * 3 + "--"


def test_connection_closed_by_the_server_keeps_the_endpoint_state(
    server: Server, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close_afterwards(request: BaseHTTPRequestHandler, _content: bytes) -> bool:
        request.close_connection = True  # without announcing it
        return False

    monkeypatch.setattr("runctl.aws.fast_s3.http1.FRESH_SECONDS", 0.0)
    put(store, b"1")
    server.next = close_afterwards
    put(store, b"2")
    server.ended.acquire(timeout=10)
    put(store, b"3")
    assert server.ways() == "-++"
    assert len(server.connections) == 3


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_silent_server_is_abandoned_after_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    monkeypatch.setattr("runctl.aws.clients.READ_TIMEOUT", 0.2)
    server = Server(certificate if scheme == "https" else None)
    over = threading.Event()

    def say_half_of_it(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        answer(request, 200, content[: len(content) // 2], Content_Length=str(len(content)))
        request.wfile.flush()
        request.close_connection = True
        return over.wait(60)

    try:
        store = store_at(server.url)
        put(store, BODY)
        server.next = say_half_of_it
        assert get(store, BODY) == BODY
        assert server.ways() == "-+-"
    finally:
        over.set()
        server.close()


def test_announced_end_of_a_connection_is_respected(server: Server, store: CheckpointStore) -> None:
    def close_and_say_so(request: BaseHTTPRequestHandler, _content: bytes) -> bool:
        answer(request, 200, b"", Connection="close")
        request.close_connection = True
        return True

    put(store, b"1")
    server.next = close_and_say_so
    put(store, b"2", b"3", b"4")
    assert server.ways() == "-+++"


def test_fast_path_does_not_bypass_a_proxy(
    server: Server, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runctl.aws.fast_s3.sender.get_environ_proxies", lambda _url: {"http": "proxy"}
    )
    put(store, b"1", b"2", b"3")
    assert server.ways() == "---"


def test_fast_path_does_not_bypass_a_handler_that_answers_for_aws(server: Server) -> None:
    connection = Connection(
        region="eu-west-1", endpoint_url=server.url, access_key="a", secret_key="s"
    )
    client = Clients(connection).get("s3")
    answered = []

    def answer_instead(request: Any, **_: Any) -> AWSResponse:
        answered.append(request)
        return AWSResponse(request.url, 200, HeadersDict(), HTTPResponse(body=io.BytesIO()))

    client.meta.events.register("before-send.s3.PutObject", answer_instead)
    put(CheckpointStore(client, bucket="bucket", run_id="run"), b"1", b"2", b"3")
    assert len({request.url for request in answered}) == 3
    assert server.asked == []


def test_tls_is_verified_on_the_fast_path_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    server = Server(certificate)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    try:
        store = store_at(server.url)
        put(store, b"1", b"2", BODY)
        assert get(store, BODY) == BODY
        assert server.ways() == "-+++"
        # A bundle that only the client's configuration trusts leaves botocore's path.
        store = store_at(server.url)
        monkeypatch.delenv("AWS_CA_BUNDLE")
        put(store, b"3", b"4")
        assert server.ways() == "-+++--"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/a HTTP/1.1\r\nx-amz-copy-source: b/c\r\nx: ", {}),
        ("/a b", {}),
        ("/a\0", {}),
        ("/\N{LATIN SMALL LETTER E WITH ACUTE}", {}),
        ("a", {}),
        ("", {}),
        ("/a", {"host": "b\r\nx: y"}),
        ("/a", {"host": "b\n"}),
        ("/a", {"host": "\x7f"}),
        ("/a", {"a b": "c"}),
        ("/a", {"a:\r\nb": "c"}),
        ("/a", {"": "c"}),
    ],
)
def test_nothing_but_a_path_and_header_values_reaches_a_request(
    path: str, headers: dict[str, str]
) -> None:
    with pytest.raises(UnsafeRequestError):
        request_head("GET", path, headers)


def test_key_that_would_be_another_request_is_not_sent(
    server: Server, store: CheckpointStore
) -> None:
    put(store, b"1", b"2")  # the second one takes the fast path
    before = len(server.asked)
    with pytest.raises(UnsafeRequestError):
        store._fast_sender.get("a HTTP/1.1\r\nx-amz-copy-source: b/c\r\nx: ", lambda *_: None)
    assert len(server.asked) == before
