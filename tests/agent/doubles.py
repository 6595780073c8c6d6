"""Doubles of an instance's surroundings: metadata, tokens of Step Functions, and credentials."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from runctl.model.node import NodeId


class Double(ABC):
    """An HTTP server on 127.0.0.1 that answers through `answer`."""

    def __init__(self) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else b""
                status, text, headers = double.answer(
                    self.command, self.path, dict(self.headers.items()), body
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = _handle  # noqa: N815

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @abstractmethod
    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers."""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MetadataDouble(Double):
    """Version 2 of the metadata service: nothing without a token."""

    TOKEN = "metadata-token"

    def __init__(self, *, run_id: str = "run-1", attempt: int = 1) -> None:
        self.values = {
            "instance-id": f"i-{attempt}",
            "tags/instance/runctl:run-id": run_id,
            "tags/instance/runctl:attempt": str(attempt),
        }
        self.role = "role"
        self.has_credentials = True
        super().__init__()

    def give_notice(self, seconds: float = 120) -> datetime:
        deadline = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        self.values["spot/instance-action"] = json.dumps(
            {"action": "terminate", "time": deadline.strftime("%Y-%m-%dT%H:%M:%SZ")}
        )
        return deadline

    def recommend_rebalance(self) -> None:
        self.values["events/recommendations/rebalance"] = json.dumps(
            {"noticeTime": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}
        )

    def schedule(self, code: str, *, seconds: float) -> datetime:
        due = (datetime.now(timezone.utc) + timedelta(seconds=seconds)).replace(microsecond=0)
        event = {
            "NotBefore": due.strftime("%d %b %Y %H:%M:%S GMT"),
            "Code": code,
            "Description": f"scheduled {code}",
            "EventId": "instance-event-0d59937288b749b32",
            "NotAfter": (due + timedelta(hours=1)).strftime("%d %b %Y %H:%M:%S GMT"),
            "State": "active",
        }
        self.values["events/maintenance/scheduled"] = json.dumps([event])
        return due

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        folded = {name.lower(): value for name, value in headers.items()}
        if path == "/latest/api/token":
            allowed = method == "PUT" and "x-aws-ec2-metadata-token-ttl-seconds" in folded
            return (200, self.TOKEN.encode(), {}) if allowed else (400, b"", {})
        if folded.get("x-aws-ec2-metadata-token") != self.TOKEN:
            return 401, b"", {}
        name = path.removeprefix("/latest/meta-data/")
        credentials = "iam/security-credentials/"
        if name.startswith(credentials) and self.has_credentials:
            return 200, self._credentials(name.removeprefix(credentials)), {}
        if name in self.values:
            return 200, self.values[name].encode(), {}
        return 404, b"", {}

    def _credentials(self, role: str) -> bytes:
        if not role:
            return self.role.encode()
        expiry = datetime.now(timezone.utc) + timedelta(hours=6)
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": "AKIDEXAMPLE",
                "SecretAccessKey": "not-a-secret",
                "Token": "session-token",
                "LastUpdated": "2026-01-01T00:00:00Z",
                "Expiration": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ).encode()


class TokensDouble(Double):
    """Step Functions, as far as task tokens go."""

    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.beats: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self.failures: list[int] = []
        self.changed = threading.Condition()
        super().__init__()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        folded = {name.lower(): value for name, value in headers.items()}
        action = folded["x-amz-target"].rpartition(".")[2]
        document = json.loads(body)
        kind = {"Content-Type": "application/x-amz-json-1.0"}
        with self.changed:
            self.changed.notify_all()
            if self.failures:
                return self.failures.pop(0), b'{"__type":"InternalFailure"}', kind
            if document["taskToken"] not in self.valid:
                return 400, b'{"__type":"TaskTimedOut","message":"timed out"}', kind
            if action == "SendTaskHeartbeat":
                self.beats.append(document["taskToken"])
            elif action == "SendTaskSuccess":
                self.valid.discard(document["taskToken"])
                self.reports.append(json.loads(document["output"]))
        return 200, b"{}", kind

    def wait_for(self, what: Callable[[], Any], seconds: float = 120) -> Any:
        with self.changed:
            if not self.changed.wait_for(what, seconds):
                raise TimeoutError("it did not happen")
            return what()


class CredentialsDouble(Double):
    """The function that issues credentials: for the node that `find` knows on an instance.

    Its name has the id of the instance, which the real one learns from STS.
    """

    def __init__(self, find: Callable[[str], NodeId | None]) -> None:
        self.find = find
        self.events: list[dict[str, Any]] = []
        self.refusals: dict[str, dict[str, str]] = {}
        self.failures: list[int] = []
        self.lifetime = timedelta(hours=1)
        super().__init__()

    def variables(self, instance_id: str) -> dict[str, str]:
        """Return what agent.env has of the function."""
        return {
            "RUNCTL_CREDENTIALS_FUNCTION": f"issue-{instance_id}",
            "RUNCTL_DEPLOYMENT": "test",
            "RUNCTL_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_LAMBDA": self.url,
        }

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        instance_id = path.split("/")[3].removeprefix("issue-")
        event = json.loads(body)
        self.events.append(event)
        if self.failures:
            status = self.failures.pop(0)
            kind = "AccessDeniedException" if status == 403 else "TooManyRequestsException"
            return status, b"{}", {"x-amzn-ErrorType": kind}
        assert _is_identity(event["identity"]["url"])
        return 200, json.dumps(self._answer(instance_id, event["purpose"])).encode(), {}

    def _answer(self, instance_id: str, purpose: str) -> dict[str, Any]:
        if refusal := self.refusals.get(purpose):
            return dict(refusal)
        node = self.find(instance_id)
        if node is None:
            return {"status": "unknown"}
        number = len(self.events)
        return {
            "status": "issued",
            **node._asdict(),
            "credentials": {
                "access_key": f"ASIA{purpose.upper()}{number}",
                "secret_key": f"secret-of-{purpose}-{number}",
                "token": f"token-of-{purpose}-{number}",
                "expires_at": (datetime.now(timezone.utc) + self.lifetime).isoformat(),
            },
        }


def _is_identity(url: str) -> bool:
    """Return whether a URL is a request to STS that names the caller, signed for a deployment."""
    query = parse_qs(urlsplit(url).query)
    return (
        query["Action"] == ["GetCallerIdentity"]
        and "x-runctl-deployment" in query["X-Amz-SignedHeaders"][0].split(";")
        and bool(query["X-Amz-Security-Token"][0])
    )
