"""The fast path for parts: botocore does more work for each request, and waits for the GIL."""

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from runctl.aws.fast_s3.http1 import Buffer, Connections, Write, drop, request_head
from runctl.aws.fast_s3.sigv4 import Signer

SIGNED = "s3v4"
OK, THERE = 200, 412
# After this many observations without a successful fast request, none is tried any more.
MAX_FAILED_OBSERVATIONS = 3


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class _EndpointState:
    """The address of an ordinary request for a part, and what signed it."""

    host: str
    prefix: str
    user_agent: str
    request_signer: Any
    signing_name: str
    region: str
    signer: Signer
    connections: Connections


class FastS3Sender:
    """Sends requests like those of a client over connections of its own.

    It learns address, credentials, region and user agent from a successful ordinary request for the
    bucket or an object in it, so botocore remains responsible for endpoint rules, redirects and
    refreshed credentials. It tries once: unless that is a plain success, the ordinary client
    repeats the request and reports errors, and the sender learns from its next success. It is not
    used with a proxy, or if something in this process answers in place of AWS.
    """

    def __init__(
        self, client: Any, *, bucket: str, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._clock = clock
        self._state: _EndpointState | None = None
        self._learning = threading.Lock()
        self._failed_observations = 0

    @contextlib.contextmanager
    def learning(self, operation: str, key: str = "") -> Iterator[None]:
        """Learn from the ordinary request for `key`, or the bucket, that is made in the block."""
        if (
            self._state is not None
            or self._failed_observations >= MAX_FAILED_OBSERVATIONS
            or not self._learning.acquire(blocking=False)
        ):
            yield
            return
        signed: dict[str, Any] = {}
        sent: list[Any] = []
        signing, sending = f"before-sign.s3.{operation}", f"before-send.s3.{operation}"

        def observe_signing(signature_version: str, **others: Any) -> None:
            if signature_version == SIGNED:
                signed.update(others)

        def observe_sending(request: Any, **_: Any) -> None:
            # It may be another thread's request, for another bucket or key.
            if self._prefix_of(request.url, key) is not None:
                sent.append(request)

        events = self._client.meta.events
        try:
            events.register(signing, observe_signing)
            events.register(sending, observe_sending)
            yield
            if signed and sent:
                # A stand-in for AWS answers this event, too, instead of the network.
                answers = events.emit(sending, request=sent[-1])
                is_stand_in = any(answer is not None for _, answer in answers)
                self._learn(signed, sent[-1], key, is_stand_in=is_stand_in)
        finally:
            events.unregister(signing, observe_signing)
            events.unregister(sending, observe_sending)
            self._learning.release()

    def _prefix_of(self, url: str, key: str) -> str | None:
        """Return the path before the key; None if the request is for another bucket or key."""
        place = urlsplit(url)
        before = place.path.removesuffix(key).rstrip("/") + "/"
        if key and not place.path.endswith(f"/{key}"):
            return None
        if before == f"/{self._bucket}/" or (
            before == "/" and place.netloc.startswith(f"{self._bucket}.")
        ):
            return before
        return None

    def _learn(self, signed: dict[str, Any], sent: Any, key: str, *, is_stand_in: bool) -> None:
        if is_stand_in or get_environ_proxies(sent.url):
            self._failed_observations = MAX_FAILED_OBSERVATIONS
            return
        self._failed_observations += 1
        place = urlsplit(sent.url)
        region, service = signed["region_name"], signed["signing_name"]
        self._state = _EndpointState(
            host=place.netloc,
            prefix=self._prefix_of(sent.url, key) or "",
            user_agent=_text(sent.headers["User-Agent"]),
            request_signer=signed["request_signer"],
            signing_name=service,
            region=region,
            signer=Signer(region=region, service=service),
            connections=Connections(
                sent.url,
                timeout=self._client.meta.config.read_timeout,
                tls=_verifying() if place.scheme == "https" else None,
            ),
        )

    def put(
        self,
        key: str,
        content: Iterable[Buffer],
        *,
        size_bytes: int,
        sha256: str,
        write_once: bool = False,
    ) -> bool:
        """Store an object with its checksum (base64); return whether S3 confirmed it.

        With `write_once`, an object that exists already is left alone, and counts as confirmed.
        """
        headers = {"x-amz-checksum-sha256": sha256}
        if write_once:
            headers["if-none-match"] = "*"
        status = self._send("PUT", key, headers, content, size_bytes, write=drop)
        return status == OK or (write_once and status == THERE)

    def get(self, key: str, write: Write) -> bool:
        """Pass an object's bytes to `write` as they arrive; return whether all of them did."""
        return self._send("GET", key, {}, (), 0, write=write) == OK

    def _send(
        self,
        method: str,
        key: str,
        headers: dict[str, str],
        body: Iterable[Buffer],
        size_bytes: int,
        *,
        write: Write,
    ) -> int | None:
        """Return the status of S3's answer; None if there is none."""
        state = self._state
        if state is None:
            return None
        status: int | None = None
        with contextlib.suppress(BotoCoreError, OSError):
            signing = state.request_signer.get_auth_instance(
                state.signing_name, state.region, SIGNED
            )
            path = state.prefix + key
            signed = state.signer.sign(
                method,
                path,
                {"host": state.host, **headers},
                signing.credentials,
                at=self._clock(),
            )
            signed["user-agent"] = state.user_agent
            if method == "PUT":
                signed["content-length"] = str(size_bytes)
            head = request_head(method, path, signed)
            status = state.connections.exchange(head, body, write)
        if status not in {OK, THERE}:
            self._forget(state)
            return status
        self._failed_observations = 0
        return status

    def _forget(self, state: _EndpointState) -> None:
        if self._state is state:
            self._state = None
        state.connections.close()


def _verifying() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
