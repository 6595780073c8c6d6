"""The local cloud's own API, below `/_runctl/`: what tests set, do and look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from runctl.local import disks, functions, iam, store
from runctl.local.instance import Instance, ended_by_user
from runctl.local.instances import Instances
from runctl.local.journal import Journal
from runctl.local.knobs import Knobs
from runctl.local.market import Market, Pool
from runctl.local.wire import ApiError

Payload = dict[str, Any]


class Admin:
    """Answers the requests of `LocalCloudClient`."""

    def __init__(
        self,
        *,
        market: Market,
        instances: Instances,
        knobs: Knobs,
        journal: Journal,
        calls: Journal,
        account: str,
        region: str,
    ) -> None:
        self._market, self._instances, self._knobs = market, instances, knobs
        self._journal, self._calls = journal, calls
        self._account, self._region = account, region
        self._initial = dataclasses.asdict(knobs)
        self._routes: Mapping[tuple[str, str], Callable[[Payload], Any]] = {
            ("GET", "health"): lambda _: {"ok": True, "enforced": iam.is_enforced()},
            ("POST", "enforce"): self._enforce,
            ("POST", "warm"): self._warm,
            ("GET", "knobs"): lambda _: dataclasses.asdict(knobs),
            ("POST", "knobs"): self._set_knobs,
            ("POST", "reset"): self._reset,
            ("POST", "capacity"): self._set_capacity,
            ("POST", "price"): self._set_price,
            ("POST", "interrupt"): self._interrupt,
            ("POST", "rebalance"): self._rebalance,
            ("POST", "event"): self._event,
            ("GET", "instances"): lambda _: [_shown(one) for one in instances.all()],
            ("GET", "events"): lambda query: journal.since(int(query.get("since", 0))),
            ("GET", "calls"): lambda query: calls.since(int(query.get("since", 0))),
        }

    def answer(self, method: str, path: str, payload: Payload) -> Any:
        """Perform one request and return what is to be sent as JSON."""
        route = self._routes.get((method, path))
        if route is None:
            raise ApiError("NotFound", f"there is no {method} /_runctl/{path}", status=404)
        try:
            with store.scope(self._account, self._region):
                return route(payload)
        except (KeyError, TypeError, ValueError) as exc:
            raise ApiError("BadRequest", f"{type(exc).__name__}: {exc}") from exc

    def _enforce(self, _: Payload) -> Payload:
        iam.enforce()
        return {"enforced": True}

    def _warm(self, _: Payload) -> Payload:
        functions.warm_up(self._account, self._region)
        return {}

    def _set_knobs(self, payload: Payload) -> Payload:
        if payload.get("disk_bytes") and not disks.are_possible():
            raise ValueError(
                "disk_bytes: start the local cloud with own_disks, as root or where user "
                "namespaces are permitted; its log says what was refused"
            )
        self._knobs.update(payload)
        return dataclasses.asdict(self._knobs)

    def _reset(self, _: Payload) -> Payload:
        self._market.reset()
        self._knobs.update(self._initial)
        for instance in self._instances.all():
            self._instances.terminate(instance, ended_by_user(), grace_seconds=0)
        return {}

    def _set_capacity(self, payload: Payload) -> Payload:
        capacity, error = payload.get("capacity"), payload.get("error")
        if payload["pool"] == "*":
            self._market.default_capacity = int(capacity if capacity is not None else 0)
            return {}
        pool = Pool.parse(payload["pool"])
        if capacity is not None:
            self._market.capacities[pool] = int(capacity)
        if error:
            self._market.errors[pool] = error
        else:
            self._market.errors.pop(pool, None)
        return {"pool": str(pool), "free": self._market.free(pool)}

    def _set_price(self, payload: Payload) -> Payload:
        pool = Pool.parse(payload["pool"])
        self._market.prices[pool] = float(payload["price"])
        return {"pool": str(pool), "price": self._market.price(pool)}

    def _interrupt(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        self._instances.interrupt(
            instance,
            notice=bool(payload.get("notice", True)),
            notice_seconds=float(payload.get("notice_seconds", 120)),
        )
        return _shown(instance)

    def _rebalance(self, payload: Payload) -> Payload:
        instance = self._instances.get(payload["instance_id"])
        self._instances.recommend_rebalance(instance)
        return _shown(instance)

    def _event(self, payload: Payload) -> Payload:
        self._instances.bus.publish(
            payload["detail_type"], payload["detail"], resource=payload.get("resource", "")
        )
        return {}


def _shown(one: Instance) -> Payload:
    return {
        "instance_id": one.instance_id,
        "state": one.state,
        "pool": str(one.pool),
        "instance_type": one.instance_type,
        "zone": one.zone,
        "lifecycle": one.lifecycle,
        "launched_at": one.launched_at.isoformat(),
        "notice": one.notice.isoformat() if one.notice else None,
        "rebalance": one.rebalance.isoformat() if one.rebalance else None,
        "reason": one.end.code if one.end else None,
        "ended_by": one.end.journal_reason if one.end else None,
        "fleet_id": one.fleet_id,
        "root": str(one.root),
        "supervisor_pid": one.supervisor_pid,
        "imds_port": one.imds_port,
        "agent_ready": one.agent_ready,
        "role": one.profile.role if one.profile else None,
        "tags": one.tags,
    }
