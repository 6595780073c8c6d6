"""Sending parts with less work a request than a client does, whose threads wait for the GIL."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSRequest, HeadersDict
from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

# Answers that say the address or the signature is wrong, as after a redirect to another region.
UNSUITABLE = frozenset({301, 307, 308, 400, 403})
SIGNED = "s3v4"


@dataclass(frozen=True)
class _Learned:
    """Where an ordinary request for a part went to, and what signed it."""

    base: str
    region: str
    signing_name: str
    signer: Any
    headers: dict[str, str]
    context: dict[str, Any]


class LightSender:
    """Sends what a client has sent once, over the client's own connections and with its signer.

    It learns address, signer and user agent from an ordinary request of the client, so endpoint
    rules, proxies, certificates and refreshed credentials stay botocore's. It tries once and never
    raises: whatever is not a plain success is the ordinary way's to repeat and to explain.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        # There is no public name for the connections; without them everything goes the other way.
        self._session: Any = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._learned: _Learned | None = None
        self._learning = threading.Lock()
        self._is_unsuitable = self._session is None

    @contextlib.contextmanager
    def learning(self, operation: str, key: str) -> Iterator[None]:
        """Look at the ordinary request for `key` that is made meanwhile."""
        if self._learned or self._is_unsuitable or not self._learning.acquire(blocking=False):
            yield
            return
        event = f"before-sign.s3.{operation}"

        def look(request: Any, signature_version: str, **told: Any) -> None:
            # Another thread's request may come by.
            if request.url.endswith(f"/{key}") and signature_version == SIGNED:
                self._learned = _Learned(
                    base=request.url.removesuffix(key),
                    region=told["region_name"],
                    signing_name=told["signing_name"],
                    signer=told["request_signer"],
                    headers={"User-Agent": _text(request.headers["User-Agent"])},
                    context={"client_config": self._client.meta.config},
                )

        try:
            self._client.meta.events.register(event, look)
            yield
        finally:
            self._client.meta.events.unregister(event, look)
            self._learning.release()

    def put(self, key: str, content: bytes, *, sha256: str) -> bool:
        """Store an object with its checksum (base64); whether S3 said that it has it."""
        headers = {"x-amz-checksum-sha256": sha256}
        return self._send("PutObject", "PUT", key, headers, content) is not None

    def get(self, key: str) -> bytes | None:
        """Return an object's bytes, or None if that did not go smoothly."""
        return self._send("GetObject", "GET", key, {}, None)

    def _send(
        self,
        operation: str,
        method: str,
        key: str,
        headers: dict[str, str],
        body: bytes | None,
    ) -> bytes | None:
        learned = self._learned
        if learned is None or self._is_unsuitable:
            return None
        try:
            request = AWSRequest(method, learned.base + key, {**learned.headers, **headers})
            request.context.update(learned.context)
            signer = learned.signer.get_auth_instance(learned.signing_name, learned.region, "s3v4")
            signer.add_auth(request)
            sent: Any = HeadersDict(request.headers.items())
            prepared = AWSPreparedRequest(
                method, learned.base + key, sent, body, stream_output=True
            )
            return self._answer_to(operation, prepared)
        except (BotoCoreError, HTTPError, OSError):
            return None

    def _answer_to(self, operation: str, prepared: Any) -> bytes | None:
        # What stands in for AWS below botocore stands in here too.
        told = self._client.meta.events.emit(f"before-send.s3.{operation}", request=prepared)
        answer = next((one for _, one in told if one is not None), None)
        if answer is None:
            answer = self._session.send(prepared)
        if answer.status_code in UNSUITABLE:
            self._is_unsuitable = True
        # Read to its end in any case, or the connection could not be used again.
        content = bytes(answer.raw.read())
        length = answer.headers.get("Content-Length")
        if answer.status_code != 200 or (length is not None and int(length) != len(content)):
            return None
        return content


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
