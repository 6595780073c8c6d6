"""The address of the registry: every request is authorized as ECR would, then handed on."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import parse_qsl, urlencode

from ministack.core import iam_evaluator

from runctl.local.core import iam, records
from runctl.local.core.journal import Journal
from runctl.local.core.protocol import ApiError
from runctl.local.ecr.images import Images
from runctl.local.ecr.operations import LAYERS, Operation, read_operation
from runctl.local.ecr.registry import Registry
from runctl.local.ecr.tokens import Grant, Tokens

logger = logging.getLogger(__name__)

_PIECE = 1024 * 1024
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_REALM = 'Basic realm="https://ecr.amazonaws.com/",service="ecr.amazonaws.com"'
_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
# The codes of the registry's protocol for those of ECR.
_CODES = {
    "NoCredentials": "UNAUTHORIZED",
    "RepositoryNotFoundException": "NAME_UNKNOWN",
    "ImageNotFoundException": "MANIFEST_UNKNOWN",
    "ImageTagAlreadyExistsException": "TAG_INVALID",
    "LayersNotFoundException": "MANIFEST_INVALID",
    "UnsupportedOperation": "UNSUPPORTED",
}
_STATUSES = {"RepositoryNotFoundException": 404, "ImageNotFoundException": 404,
             "AccessDeniedException": 403, "ServerException": 403}  # fmt: skip


class Proxy(ThreadingHTTPServer):
    """Serves the registry's protocol on a port of the loopback interface."""

    daemon_threads = True

    def __init__(self, registry: Registry, images: Images, tokens: Tokens, calls: Journal) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry, self.images, self.tokens, self.calls = registry, images, tokens, calls
        threading.Thread(target=self.serve_forever, daemon=True, name="ecr").start()

    def authorize(self, grant: Grant, operation: Operation) -> None:
        """Raise the error of ECR unless the caller may do it and the repository exists."""
        iam_evaluator.pin_request_origin("127.0.0.1", True)
        iam.pin_caller(grant.access_key)
        gate = iam.Gate(service="ecr", access_key=grant.access_key, tags_of=records.tags_of)
        gate(operation.action, repository=[operation.repository])
        self.images.check(operation.repository)

    def record(self, grant: Grant, operation: Operation, outcome: str) -> None:
        """Add an operation to the journal of calls."""
        params = {"repositoryName": operation.repository, "reference": operation.rest}
        caller = iam.caller_arn(grant.access_key)
        self.calls.add(
            service="ecr", action=operation.action, caller=caller, params=params, outcome=outcome
        )


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"

    @property
    def _proxy(self) -> Proxy:
        return cast("Proxy", self.server)

    def _serve(self) -> None:
        try:
            if self.command == "GET" and self.path.startswith(LAYERS):
                link = self._proxy.tokens.linked(self.path.removeprefix(LAYERS))
                self._relay(f"/v2/{link.repository}/blobs/{link.digest}")
                return
            grant = self._proxy.tokens.grant(self.headers.get("Authorization", ""))
            with records.scope(grant.account, grant.region):
                self._perform(grant)
        except ApiError as exc:
            self._refuse(exc)
        except OSError as exc:  # the client or the registry has gone
            logger.info("%s %s: %s", self.command, self.path, exc)
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing: the journal of calls has it."""

    def _perform(self, grant: Grant) -> None:
        path, _, query = self.path.partition("?")
        if path in {"/v2", "/v2/"}:
            self._send(200, b"{}")
            return
        operation = read_operation(self.command, path)
        try:
            self._proxy.authorize(grant, operation)
            if operation.kind == "tags":
                self._list_tags(operation)
            elif operation.action == "PutImage":
                self._put_manifest(operation)
            elif operation.kind == "manifests":
                self._relay(self._path_of_manifest(operation))
            else:
                # Each repository keeps its own layers: none is mounted from another one.
                kept = [pair for pair in parse_qsl(query) if pair[0] not in {"mount", "from"}]
                self._relay(f"{path}?{urlencode(kept)}" if kept else path)
        except ApiError as exc:
            self._proxy.record(grant, operation, exc.code)
            raise
        self._proxy.record(grant, operation, "ok")

    def _list_tags(self, operation: Operation) -> None:
        images = self._proxy.images.all(operation.repository)
        tags = sorted(tag for image in images for tag in image["imageTags"])
        self._send(200, json.dumps({"name": operation.repository, "tags": tags}).encode())

    def _path_of_manifest(self, operation: Operation) -> str:
        images = self._proxy.images
        image = images.find(operation.repository, digest=operation.digest, tag=operation.tag)
        if image is None:
            raise ApiError("ImageNotFoundException", "Requested image not found")
        if self.command == "GET":
            images.note_pull(image)
        return f"/v2/{operation.repository}/manifests/{image['imageDigest']}"

    def _put_manifest(self, operation: Operation) -> None:
        manifest = b""
        for piece in self._body():
            manifest += piece
            if len(manifest) > _MAX_MANIFEST_BYTES:
                raise ApiError("InvalidParameterException", "the manifest is too large", status=413)
        media_type = self.headers.get("Content-Type", "")
        digest = self._proxy.images.put(
            operation.repository, manifest, media_type=media_type, tag=operation.tag
        )
        location = f"/v2/{operation.repository}/manifests/{operation.rest}"
        self._send(201, b"", Location=location, Docker_Content_Digest=digest)

    def _relay(self, path: str) -> None:
        """Hand a request on to the registry, and its answer back."""
        connection = self._proxy.registry.connect()
        with contextlib.closing(connection):
            connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {*_OF_ONE_CONNECTION, "authorization", "expect"}:
                    connection.putheader(name, value)
            is_chunked = _is_chunked(self)
            if is_chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            self._send_body(connection, is_chunked=is_chunked)
            self._send_answer(connection.getresponse())

    def _send_body(self, connection: HTTPConnection, *, is_chunked: bool) -> None:
        try:
            for piece in self._body():
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
            if is_chunked:
                connection.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the registry has refused it; its answer says why

    def _body(self) -> Iterator[bytes]:
        """Yield what the client sends, in pieces."""
        if not _is_chunked(self):
            left = int(self.headers.get("Content-Length", "0"))
            while left > 0 and (piece := self.rfile.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _send_answer(self, response: HTTPResponse) -> None:
        has_length = "Content-Length" in response.headers
        is_empty = self.command == "HEAD" or response.status in {204, 304}
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        if not has_length and not is_empty:
            self.send_header("Connection", "close")  # which marks its end
        self.end_headers()
        if is_empty:
            return
        buffer = memoryview(bytearray(_PIECE))
        while count := response.readinto(buffer):
            self.wfile.write(buffer[:count])

    def _refuse(self, exc: ApiError) -> None:
        # What the client still wanted to send is not read.
        self.close_connection = True
        status = _STATUSES.get(exc.code, exc.status)
        error = {"code": _CODES.get(exc.code, "DENIED"), "message": exc.message, "detail": {}}
        headers = {"WWW_Authenticate": _REALM} if status == 401 else {}
        self._send(status, json.dumps({"errors": [error]}).encode(), **headers)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response_only(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _is_chunked(handler: BaseHTTPRequestHandler) -> bool:
    return "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
