"""The instance metadata service, version 2 only."""

import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone

from runctl.model.maintenance import ScheduledEvent, read_scheduled_events

DEFAULT_ENDPOINT = "http://169.254.169.254"
TOKEN_LIFE = timedelta(hours=6)
TIMEOUT = timedelta(seconds=2)


class MetadataError(Exception):
    """The metadata service cannot be reached or refuses us; it usually comes back."""


class Metadata:
    """Reads instance metadata. Not thread-safe."""

    def __init__(self, endpoint: str = "") -> None:
        self._endpoint = (
            endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT
        ).rstrip("/")
        self._token = ""
        # Never through a proxy: link-local addresses are this machine's own.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> str | None:
        """Return `latest/meta-data/<path>`, or None if it does not exist (yet)."""
        for fresh in (False, True):
            if fresh or not self._token:
                self._token = self._fetch_token()
            status, text = self._send(
                "GET", f"latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token}
            )
            if status == 200:
                return text
            if status == 404:
                return None
            if status != 401:
                break
            # The token has expired, or the service was restarted: try once more with a new one.
        raise MetadataError(f"the metadata service answered {status} for {path}")

    def notice(self) -> datetime | None:
        """Return the instant at which EC2 takes this instance, or None."""
        text = self.get("spot/instance-action")
        if not text:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return _instant(json.loads(text)["time"])
        # An answer that we cannot read is still a notice; the warning leaves two minutes.
        return datetime.now(timezone.utc) + timedelta(seconds=100)

    def rebalance_recommended_at(self) -> str | None:
        """Return when EC2 recommended rebalancing, in the format of EC2, or None."""
        return self.get("events/recommendations/rebalance")

    def scheduled_events(self) -> tuple[ScheduledEvent, ...]:
        """Return the maintenance that EC2 has scheduled for this instance."""
        return read_scheduled_events(self.get("events/maintenance/scheduled"))

    def _fetch_token(self) -> str:
        seconds = str(int(TOKEN_LIFE.total_seconds()))
        status, text = self._send(
            "PUT", "latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": seconds}
        )
        if status != 200:
            raise MetadataError(f"the metadata service answered {status} to a request for a token")
        return text

    def _send(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        request = urllib.request.Request(  # noqa: S310 - the endpoint is the machine's own
            f"{self._endpoint}/{path}", method=method, headers=headers
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT.total_seconds()) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return int(exc.code), ""
        # An answer that breaks off does not raise an OSError.
        except (OSError, ValueError, http.client.HTTPException) as exc:
            raise MetadataError(f"the metadata service cannot be reached: {exc}") from exc


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
