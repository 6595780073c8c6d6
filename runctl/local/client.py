"""A client of the local cloud's own API: interruptions, pools, knobs and journals."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from runctl.local import daemon
from runctl.local.core import keys
from runctl.model.errors import RunctlError

Json = dict[str, Any]


class LocalCloudError(RunctlError):
    """The local cloud refused a request of its own API."""


class LocalCloudClient:
    """A client of one local cloud; `endpoint` is its URL.

    Its key is read from the local cloud's folder, which is found among the running ones of this
    user.
    """

    def __init__(
        self, endpoint: str, *, key: str = "", timeout: timedelta = timedelta(seconds=120)
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._key = key or _find_key(self.endpoint)
        self._timeout = timeout.total_seconds()

    def health(self) -> Json:
        """Return whether IAM is enforced; it fails if the local cloud is down."""
        return self._call("GET", "health")

    def enforce_iam(self) -> None:
        """Evaluate every caller's policies from now on."""
        self._call("POST", "enforce")

    def warm_functions(self) -> None:
        """Start every Lambda function's environment in the background, to avoid cold starts."""
        self._call("POST", "warm")

    def knobs(self) -> Json:
        """Read the knobs."""
        return self._call("GET", "knobs")

    def set_knobs(self, **values: Any) -> Json:
        """Set knobs: boot_delay, agent_delay, shutdown_grace, not_found_for, drop_events, …."""
        return self._call("POST", "knobs", values)

    def reset(self) -> None:
        """Reset market and knobs to their defaults, and kill every instance."""
        self._call("POST", "reset")

    def set_capacity(
        self, pool: str, capacity: int | None = None, *, error: str | None = None
    ) -> Json:
        """Set how many instances a pool holds, and its error; `*` is every other pool.

        A pool is written `m5.large/us-east-1a/spot`; without `error`, an earlier error is removed.
        """
        return self._call("POST", "capacity", {"pool": pool, "capacity": capacity, "error": error})

    def set_quota(self, code: str, vcpus: int | None) -> Json:
        """Set how many vCPUs of a quota, such as L-34B43A08, may run; None: unlimited."""
        quotas = {**self.knobs()["vcpu_quotas"], code: vcpus}
        return self.set_knobs(
            vcpu_quotas={name: value for name, value in quotas.items() if value is not None}
        )

    def set_price(self, pool: str, price: float) -> Json:
        """Set the price of an hour in a pool."""
        return self._call("POST", "price", {"pool": pool, "price": price})

    def interrupt(
        self, instance_id: str, *, notice: bool = True, notice_seconds: float = 120
    ) -> Json:
        """Reclaim a spot instance: at once, or after a notice of `notice_seconds`."""
        return self._call(
            "POST",
            "interrupt",
            {"instance_id": instance_id, "notice": notice, "notice_seconds": notice_seconds},
        )

    def rebalance(self, instance_id: str) -> Json:
        """Send a rebalance recommendation."""
        return self._call("POST", "rebalance", {"instance_id": instance_id})

    def end_reservation(self, instance_id: str, *, notice_seconds: float = 120) -> Json:
        """Reclaim an instance for its capacity reservation; only an event announces it."""
        return self._call(
            "POST",
            "reservation",
            {"instance_id": instance_id, "notice_seconds": notice_seconds},
        )

    def impair(
        self,
        instance_id: str,
        *,
        check: str = "instance",
        is_ok: bool = False,
        since_seconds: float = 0,
        hangs: bool = False,
    ) -> Json:
        """Fail a status check (system, instance, ebs), or pass it again with `is_ok`.

        With `hangs`, all processes of the instance stop running.
        """
        asked = {"check": check, "is_ok": is_ok, "since_seconds": since_seconds, "hangs": hangs}
        return self._call("POST", "impair", {"instance_id": instance_id, **asked})

    def cut_network(self, instance_id: str) -> Json:
        """Lose every packet between an instance and AWS or other instances; needs own networks."""
        return self._call("POST", "network", {"instance_id": instance_id, "is_cut": True})

    def restore_network(self, instance_id: str) -> Json:
        """Join an instance to the others again."""
        return self._call("POST", "network", {"instance_id": instance_id, "is_cut": False})

    def schedule_maintenance(
        self, instance_id: str, *, code: str = "instance-retirement", in_seconds: float
    ) -> Json:
        """Schedule an event for an instance; return it with its `event_id`."""
        asked = {"instance_id": instance_id, "code": code, "in_seconds": in_seconds}
        return self._call("POST", "maintenance", asked)

    def cancel_maintenance(self, instance_id: str, event_id: str) -> Json:
        """Cancel a scheduled event."""
        asked = {"instance_id": instance_id, "event_id": event_id}
        return self._call("POST", "maintenance/cancel", asked)

    def send_event(self, detail_type: str, detail: Json, *, resource: str = "") -> None:
        """Send an event with source aws.ec2, for example about a foreign instance."""
        self._call(
            "POST", "event", {"detail_type": detail_type, "detail": detail, "resource": resource}
        )

    def make_objects_older(self, bucket: str, prefix: str, *, days: float) -> int:
        """Date the objects with a prefix back; return how many there are."""
        asked = {"bucket": bucket, "prefix": prefix, "older_by_days": days}
        found: int = self._call("POST", "objects", asked)["objects"]
        return found

    def instances(self) -> list[Json]:
        """List every instance since the local cloud started, with its tags, root and reason."""
        return self._list("instances")

    def instance(self, instance_id: str) -> Json:
        """Find one instance."""
        for instance in self.instances():
            if instance["instance_id"] == instance_id:
                return instance
        raise LookupError(instance_id)

    def events(self, *, since: int = 0) -> list[Json]:
        """List what happened to instances after a sequence number."""
        return self._list(f"events?{urlencode({'since': since})}")

    def calls(self, *, since: int = 0) -> list[Json]:
        """List the EC2, SSM and ECR calls after a sequence number: caller, params, outcome."""
        return self._list(f"calls?{urlencode({'since': since})}")

    def used_permissions(self) -> list[Json]:
        """List the actions that each role was allowed so far, with the first resource of each."""
        return self._list("permissions")

    def session(self, session_id: str, token: str) -> Json:
        """Return the port of a session of SSM, and whether it is active."""
        return self._call("GET", f"session?{urlencode({'id': session_id, 'token': token})}")

    def wait_for_event(
        self,
        matches: Callable[[Json], bool],
        *,
        since: int = 0,
        timeout: timedelta = timedelta(seconds=120),
    ) -> Json:
        """Wait until the journal of instances holds a matching entry."""
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            for entry in self.events(since=since):
                if matches(entry):
                    return entry
                since = entry["seq"]
            if time.monotonic() > deadline:
                raise TimeoutError("no such event in the local cloud's journal")
            time.sleep(0.05)

    def wait_for_state(
        self, instance_id: str, state: str, *, timeout: timedelta = timedelta(seconds=120)
    ) -> Json:
        """Wait until an instance is in a state."""
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            found = self.instance(instance_id)
            if found["state"] == state:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{instance_id} is {found['state']}, not {state}")
            time.sleep(0.05)

    def _list(self, path: str) -> list[Json]:
        found: list[Json] = self._send("GET", path, None)
        return found

    def _call(self, method: str, path: str, payload: Json | None = None) -> Json:
        answer: Json = self._send(method, path, payload)
        return answer

    def _send(self, method: str, path: str, payload: Json | None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - always the local cloud
            f"{self.endpoint}/_runctl/{path}",
            method=method,
            data=None if method == "GET" else json.dumps(payload or {}).encode(),
            headers={"Content-Type": "application/json", keys.HEADER: self._key},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                return json.load(response)
        except urllib.error.HTTPError as exc:
            with exc:
                raise LocalCloudError(_message(exc.read().decode())) from exc


def _find_key(endpoint: str) -> str:
    found = daemon.find_by_url(endpoint)
    if found is None:
        raise LocalCloudError(
            f"endpoint: no local cloud of this user serves {endpoint}; start one with "
            "`runctl local up`"
        )
    return found.keys.admin


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        return body
