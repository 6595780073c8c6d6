"""Where HTTP messages end, and which requests may be sent again."""

import pytest

from runctl.cli.proxy.http_message import (
    Body,
    may_be_http,
    read_request_head,
    read_response_head,
)


def request(line="GET / HTTP/1.1", **fields):
    lines = [line, *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return read_request_head(("\r\n".join(lines) + "\r\n\r\n").encode())


def response(line="HTTP/1.1 200 OK", to="GET / HTTP/1.1", **fields):
    lines = [line, *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return read_response_head(("\r\n".join(lines) + "\r\n\r\n").encode(), request(to))


def test_a_request_without_a_length_has_no_body():
    head = request()
    assert (head.body, head.keeps_alive, head.is_idempotent) == (Body(), True, True)


def test_a_post_has_its_length_and_is_not_repeated():
    head = request("POST /x HTTP/1.1", content_length="12")
    assert (head.body, head.is_idempotent) == (Body(length=12), False)


@pytest.mark.parametrize("coding", ["chunked", "gzip, chunked", "Chunked"])
def test_a_chunked_body_ends_with_its_last_chunk(coding):
    assert request("POST / HTTP/1.1", transfer_encoding=coding).body == Body(is_chunked=True)


@pytest.mark.parametrize(
    ("line", "connection", "keeps_alive"),
    [
        ("GET / HTTP/1.1", "", True),
        ("GET / HTTP/1.1", "Close", False),
        ("GET / HTTP/1.0", "", False),
        ("GET / HTTP/1.0", "keep-alive", True),
    ],
)
def test_the_version_says_whether_a_connection_is_kept(line, connection, keeps_alive):
    assert request(line, connection=connection).keeps_alive is keeps_alive


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT host:1 HTTP/1.1", "GET /", "GET / HTTP/2.0", "PRI * HTTP/2.0", "GET  / HTTP/1.1",
        "\x16\x03\x01", "",
    ],
)  # fmt: skip
def test_anything_else_is_no_request(line):
    assert request(line) is None


@pytest.mark.parametrize("length", ["-1", "1, 2", "x", "1_0", "+1", "٣"])
def test_a_request_with_an_unclear_end_is_no_request(length):
    assert read_request_head(f"GET / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode()) is None
    assert request(transfer_encoding="gzip") is None


def test_the_same_length_twice_is_clear():
    head = read_request_head(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n")
    assert head is not None
    assert head.body.length == 3


@pytest.mark.parametrize(
    ("line", "to", "fields", "body", "keeps_alive"),
    [
        ("HTTP/1.1 200 OK", "GET / HTTP/1.1", {"content_length": "5"}, Body(length=5), True),
        ("HTTP/1.1 200 OK", "HEAD / HTTP/1.1", {"content_length": "5"}, Body(), True),
        ("HTTP/1.1 204 No", "GET / HTTP/1.1", {}, Body(), True),
        ("HTTP/1.1 304 No", "GET / HTTP/1.1", {"content_length": "5"}, Body(), True),
        ("HTTP/1.1 200 OK", "GET / HTTP/1.1", {}, Body(lasts=True), False),
        ("HTTP/1.0 200 OK", "GET / HTTP/1.1", {"content_length": "5"}, Body(length=5), False),
        (
            "HTTP/1.1 200 OK",
            "GET / HTTP/1.1",
            {"transfer_encoding": "chunked"},
            Body(is_chunked=True),
            True,
        ),
        (
            "HTTP/1.1 200 OK",
            "GET / HTTP/1.1",
            {"content_length": "0", "connection": "close"},
            Body(),
            False,
        ),
    ],
)
def test_the_end_of_a_response_is_known(line, to, fields, body, keeps_alive):
    head = response(line, to, **fields)
    assert (head.body, head.keeps_alive) == (body, keeps_alive)


def test_interim_responses_and_other_protocols_are_recognized():
    assert response("HTTP/1.1 100 Continue").is_interim
    assert response("HTTP/1.1 103 Early Hints").is_interim
    assert response("HTTP/1.1 101 Switching Protocols").switches
    assert not response("HTTP/1.1 101 Switching Protocols").is_interim
    assert response("220 ready") is None


@pytest.mark.parametrize(
    ("start", "may_be"),
    [
        (b"", True),
        (b"GE", True),
        (b"GET /very/long", True),
        (b"\x16\x03", False),
        (b"a\r\n", False),
    ],
)
def test_the_first_bytes_tell_http_from_other_protocols(start, may_be):
    assert may_be_http(start) is may_be
