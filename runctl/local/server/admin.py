"""The local cloud's own API, below `/_runctl/`: what tests set, do and observe."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from runctl.local.core import catalog, iam, records
from runctl.local.core.instance import Instance, ended_by_user
from runctl.local.core.journal import Journal
from runctl.local.core.knobs import Setup, unknown
from runctl.local.core.market import ERROR_CODES, Market, Pool
from runctl.local.core.protocol import ApiError
from runctl.local.core.used_permissions import UsedPermissions
from runctl.local.ec2 import disks
from runctl.local.ec2.faults import Faults
from runctl.local.ec2.instances import Instances
from runctl.local.s3 import objects
from runctl.local.server import functions
from runctl.local.ssm.sessions import Sessions

Payload = dict[str, Any]


class Admin:
    """The handler of `LocalCloudClient`'s requests."""

    def __init__(
        self,
        *,
        market: Market,
        instances: Instances,
        journal: Journal,
        calls: Journal,
        used: UsedPermissions,
        account: str,
        region: str,
        setup: Setup,
        sessions: Sessions,
    ) -> None:
        knobs = setup.knobs
        self._market, self._instances, self._knobs = market, instances, knobs
        self._journal, self._calls = journal, calls
        self._faults = Faults(instances)
        self._refused = {
            "own_networks": setup.shares_network,
            "own_user": setup.shares_user,
        }
        self._account, self._region = account, region
        self._initial = dataclasses.asdict(knobs)
        self._routes: Mapping[tuple[str, str], Callable[[Payload], Any]] = {
            ("GET", "health"): lambda _: {
                "ok": True,
                "enforced": iam.is_enforced(),
                "own_disks": disks.are_possible(),
                "disk_bytes": knobs.disk_bytes,
                "own_paths": not setup.shares_paths,
                "shares_paths_because": setup.shares_paths,
                "own_networks": knobs.own_networks,
                "shares_network_because": setup.shares_network,
                "own_user": knobs.own_user,
                "shares_user_because": setup.shares_user,
                "has_engine": not setup.no_engine,
                "no_engine_because": setup.no_engine,
            },
            ("POST", "enforce"): self._enforce,
            ("POST", "warm"): self._warm,
            ("GET", "knobs"): lambda _: dataclasses.asdict(knobs),
            ("POST", "knobs"): self._set_knobs,
            ("POST", "reset"): self._reset,
            ("POST", "capacity"): self._set_capacity,
            ("POST", "price"): self._set_price,
            ("POST", "interrupt"): self._interrupt,
            ("POST", "rebalance"): self._rebalance,
            ("POST", "reservation"): self._end_reservation,
            ("POST", "impair"): self._impair,
            ("POST", "network"): self._set_network,
            ("POST", "maintenance"): self._schedule,
            ("POST", "maintenance/cancel"): self._cancel,
            ("POST", "event"): self._event,
            ("POST", "objects"): self._make_older,
            ("GET", "instances"): lambda _: [_shown(instance) for instance in instances.all()],
            ("GET", "session"): lambda query: sessions.describe(query["id"], query["token"]),
            ("GET", "events"): lambda query: journal.since(int(query.get("since", 0))),
            ("GET", "permissions"): lambda _: used.listed(),
            ("GET", "calls"): lambda query: calls.since(int(query.get("since", 0))),
        }

    def answer(self, method: str, path: str, payload: Payload) -> Any:
        """Perform a request and return what is to be sent as JSON."""
        route = self._routes.get((method, path))
        if route is None:
            raise ApiError("NotFound", f"{method} /_runctl/{path} does not exist", status=404)
        try:
            _check_names(method, path, payload)
            with records.scope(self._account, self._region):
                return route(payload)
        except (TypeError, ValueError) as exc:
            raise ApiError("BadRequest", str(exc)) from exc

    def _enforce(self, _: Payload) -> Payload:
        iam.enforce()
        return {"enforced": True}

    def _warm(self, _: Payload) -> Payload:
        functions.warm_up(self._account, self._region)
        return {}

    def _set_knobs(self, payload: Payload) -> Payload:
        size = payload.get("disk_bytes")
        if size and type(size) is int:
            if not disks.are_possible():
                raise ValueError(
                    "disk_bytes: start the local cloud with own_disks, as root or where user "
                    "namespaces are permitted; its log says what was refused"
                )
            try:
                disks.check(size)
            except ValueError as exc:
                raise ValueError(f"disk_bytes: {exc}") from exc
        for name, reason in self._refused.items():
            if reason and payload.get(name):
                raise ValueError(f"{name}: not possible here: {reason}")
        self._knobs.update(payload)
        return dataclasses.asdict(self._knobs)

    def _reset(self, _: Payload) -> Payload:
        self._market.reset()
        self._knobs.update(self._initial)
        for instance in self._instances.all():
            self._instances.terminate(instance, ended_by_user(), grace_seconds=0)
        return {}

    def _set_capacity(self, payload: Payload) -> Payload:
        pool = None if payload["pool"] == "*" else _pool(payload["pool"])
        capacity, error = payload.get("capacity"), payload.get("error")
        if capacity is not None and (type(capacity) is not int or capacity < 0):
            raise ValueError(f"capacity: {capacity!r} is not a whole number of at least 0")
        if error is not None:
            _check_error(error)
        self._market.set_supply(pool, capacity, error or None)
        if pool is None:
            market = self._market
            return {"pool": "*", "free": market.default_capacity, "error": market.default_error}
        free, error = self._market.free(pool), self._market.error(pool)
        return {"pool": str(pool), "free": free, "error": error}

    def _set_price(self, payload: Payload) -> Payload:
        pool = _pool(payload["pool"])
        self._market.prices[pool] = _number("price", payload["price"], above_zero=True)
        return {"pool": str(pool), "price": self._market.price(pool)}

    def _interrupt(self, payload: Payload) -> Payload:
        notice = _flag("notice", payload.get("notice", True))
        seconds = _number("notice_seconds", payload.get("notice_seconds", 120))
        instance = self._instances.get(payload["instance_id"])
        self._instances.interrupt(instance, notice=notice, notice_seconds=seconds)
        return _shown(instance)

    def _rebalance(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        self._instances.recommend_rebalance(instance)
        return _shown(instance)

    def _end_reservation(self, payload: Payload) -> Payload:
        seconds = _number("notice_seconds", payload.get("notice_seconds", 120))
        instance = self._instances.get(payload["instance_id"])
        self._faults.end_reservation(instance, notice_seconds=seconds)
        return _shown(instance)

    def _impair(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        self._faults.impair(
            instance,
            check=payload.get("check", "instance"),
            is_ok=_flag("is_ok", payload.get("is_ok", False)),
            since_seconds=_number("since_seconds", payload.get("since_seconds", 0)),
            hangs=_flag("hangs", payload.get("hangs", False)),
        )
        return _shown(instance)

    def _set_network(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        self._instances.set_network(instance, is_cut=_flag("is_cut", payload["is_cut"]))
        return _shown(instance)

    def _schedule(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        seconds = _number("in_seconds", payload["in_seconds"])
        event = self._faults.schedule(
            instance, code=payload.get("code", "instance-retirement"), in_seconds=seconds
        )
        return {"event_id": event.event_id, "not_before": event.not_before.isoformat()}

    def _cancel(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        self._faults.cancel(instance, payload["event_id"])
        return _shown(instance)

    def _event(self, payload: Payload) -> Payload:
        detail_type, detail = payload["detail_type"], payload["detail"]
        if not isinstance(detail_type, str) or not isinstance(detail, dict):
            raise ValueError("detail_type must be a string, and detail an object")  # noqa: TRY004
        self._instances.bus.publish(detail_type, detail, resource=payload.get("resource", ""))
        return {}

    def _make_older(self, payload: Payload) -> Payload:
        days = _number("older_by_days", payload["older_by_days"], above_zero=True)
        bucket, prefix = str(payload["bucket"]), str(payload["prefix"])
        return {"objects": objects.make_older(bucket, prefix, by=timedelta(days=days))}


def _check_names(method: str, path: str, payload: Payload) -> None:
    """Refuse unknown and missing fields of a request."""
    if path == "knobs" and method == "POST":
        return  # each knob is a field
    needed, optional = _FIELDS.get(path, ((), ()))
    for name in payload:
        if name not in (*needed, *optional):
            raise ValueError(f"{path}: {unknown('field', name, [*needed, *optional])}")
    if missing := [name for name in needed if name not in payload]:
        raise ValueError(f"{path} needs {', '.join(missing)}")


# What each request needs, and what else it accepts; the others accept nothing.
_FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "capacity": (("pool",), ("capacity", "error")),
    "price": (("pool", "price"), ()),
    "interrupt": (("instance_id",), ("notice", "notice_seconds")),
    "rebalance": (("instance_id",), ()),
    "reservation": (("instance_id",), ("notice_seconds",)),
    "impair": (("instance_id",), ("check", "is_ok", "since_seconds", "hangs")),
    "network": (("instance_id", "is_cut"), ()),
    "maintenance": (("instance_id", "in_seconds"), ("code",)),
    "maintenance/cancel": (("instance_id", "event_id"), ()),
    "event": (("detail_type", "detail"), ("resource",)),
    "objects": (("bucket", "prefix", "older_by_days"), ()),
    "session": (("id", "token"), ()),
    "events": ((), ("since",)),
    "calls": ((), ("since",)),
}


def _pool(text: str) -> Pool:
    """Parse the name of a pool that requests can reach; ValueError for any other."""
    pool = Pool.parse(text)
    types = catalog.existing_types()
    if pool.instance_type not in types:
        raise ValueError(f"pool: {unknown('instance type', pool.instance_type, types)}")
    if pool.zone not in (zones := records.zones()):
        raise ValueError(f"pool: {unknown('zone', pool.zone, zones)}")
    return pool


def _check_error(code: str) -> None:
    """Refuse what is not an error code, and what looks like a misspelled one."""
    if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9.]*", code):
        raise ValueError(f"error: {code!r} is not an error code such as VcpuLimitExceeded")
    if code not in ERROR_CODES and difflib.get_close_matches(code, ERROR_CODES, cutoff=0.9):
        raise ValueError(f"error: {unknown('error code', code, sorted(ERROR_CODES))}")


def _number(name: str, value: Any, *, above_zero: bool = False) -> float:
    fits = type(value) in {int, float} and math.isfinite(value) and value >= 0
    if not fits or (above_zero and value == 0):
        raise ValueError(
            f"{name}: {value!r} is not a number {'above' if above_zero else 'of at least'} 0"
        )
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{name}: {value!r} is not true or false")
    return value


def _shown(instance: Instance) -> Payload:
    return {
        "instance_id": instance.instance_id,
        "state": instance.state,
        "pool": str(instance.pool),
        "instance_type": instance.instance_type,
        "zone": instance.zone,
        "lifecycle": instance.lifecycle,
        "launched_at": instance.launched_at.isoformat(),
        "notice": instance.notice.isoformat() if instance.notice else None,
        "rebalance": instance.rebalance.isoformat() if instance.rebalance else None,
        "reason": instance.end.code if instance.end else None,
        "ended_by": instance.end.journal_reason if instance.end else None,
        "fleet_id": instance.fleet_id,
        "root": str(instance.root),
        "supervisor_pid": instance.supervisor_pid,
        "metadata_url": instance.metadata_url,
        "reachable_ip": instance.reachable_ip,
        "agent_ready": instance.agent_ready,
        "role": instance.profile.role if instance.profile else None,
        "tags": instance.tags,
    }
