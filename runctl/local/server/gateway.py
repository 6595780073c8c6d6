"""The gateway: it answers a request or forwards it to ministack, and records it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ministack import app as ministack
from ministack.core import iam_evaluator, responses

from runctl.local.codebuild.api import Builds
from runctl.local.codebuild.assembly import assemble_builds
from runctl.local.core import (
    conditional_writes,
    iam,
    item_conditions,
    limits,
    missing_objects,
    policy_variables,
    protocol,
    records,
    resources,
    simulation,
    used_permissions,
)
from runctl.local.core.events import EventBus
from runctl.local.core.journal import Journal
from runctl.local.core.keys import ADMIN_PATH
from runctl.local.core.knobs import Setup
from runctl.local.core.market import Market
from runctl.local.core.protocol import ApiError
from runctl.local.ec2 import experiments
from runctl.local.ec2 import provisioning as ec2_provisioning
from runctl.local.ec2.api import Ec2
from runctl.local.ec2.fleets import Fleets
from runctl.local.ec2.instances import Instances
from runctl.local.ec2.quotas import Quotas
from runctl.local.ec2.volumes import Volumes
from runctl.local.ecr.assembly import RegistryService
from runctl.local.s3 import objects
from runctl.local.server import functions
from runctl.local.server.admin import Admin
from runctl.local.server.asgi import (
    Message,
    Receive,
    Scope,
    Send,
    read_body,
    read_headers,
    replaying,
    respond,
)
from runctl.local.ssm import provisioning
from runctl.local.ssm.api import Ssm
from runctl.local.stepfunctions import workflows

logger = logging.getLogger(__name__)

_ANSWERED = frozenset({"ec2", "ssm", "servicequotas", "ecr", "iam", "fis"})
_CREDENTIAL = re.compile(r"Credential=([^/]*)/[^/]*/([^/]*)/([^/]*)/aws4_request")


@dataclass
class Call:
    """A signed request to a service that the gateway inspects."""

    scope: Scope
    service: str
    access_key: str
    body: bytes
    headers: Mapping[str, str]
    action: str = "?"
    request: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WireFormat:
    """How a service formats its answers."""

    content_type: str
    render: Callable[[str, Mapping[str, Any]], bytes]
    refuse: Callable[[str, str], bytes]


_EC2_WIRE = WireFormat("text/xml;charset=UTF-8", protocol.render_response, protocol.render_error)
_SSM_WIRE = WireFormat(
    "application/x-amz-json-1.1",
    lambda _action, answer: json.dumps(answer).encode(),
    lambda code, message: json.dumps({"__type": code, "message": message}).encode(),
)


_IAM_WIRE = WireFormat("text/xml", lambda _action, answer: bytes(answer["body"]), simulation.refuse)
_WIRES = {"ec2": _EC2_WIRE, "iam": _IAM_WIRE}


class Gateway:
    """The ASGI application of the local cloud."""

    def __init__(
        self,
        *,
        ec2: Ec2,
        ssm: Ssm,
        quotas: Quotas,
        fis: experiments.Experiments,
        ecr: RegistryService,
        admin: Admin,
        instances: Instances,
        builds: Builds,
        calls: Journal,
    ) -> None:
        self._ec2, self._ssm, self._quotas, self._admin = ec2, ssm, quotas, admin
        self._ecr, self._builds, self._fis = ecr, builds, fis
        self._instances, self._calls = instances, calls
        self.ready = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection's scope."""
        if scope["type"] == "lifespan":
            await self._serve_lifespan(scope, receive, send)
        elif scope["path"].startswith(ADMIN_PATH):
            await self._serve_admin(scope, receive, send)
        else:
            await self._serve_http(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope)
        match = _CREDENTIAL.search(headers.get("authorization", ""))
        service = match.group(3) if match else ""
        if match is None or service not in {*_ANSWERED, *limits.SERVICES}:
            await ministack.app(scope, receive, send)
            return
        body = await read_body(receive)
        if service in limits.SERVICES:
            await self._serve_within_limits(scope, service, body, headers, receive, send)
            return
        call = Call(scope, service, match.group(1), body, headers)
        await self._serve_call(call, receive, send)

    async def _serve_within_limits(
        self,
        scope: Scope,
        service: str,
        body: bytes,
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        """Let ministack answer, unless AWS would refuse a size or a name."""
        action = headers.get("x-amz-target", "?").rpartition(".")[2]
        try:
            limits.check(limits.SERVICES[service], action, _document(body))
        except ApiError as exc:
            refusal = _SSM_WIRE.refuse(exc.code, exc.message)
            await respond(send, exc.status, _SSM_WIRE.content_type, refusal)
        else:
            await ministack.app(scope, replaying(body, receive), send)

    def close(self) -> None:
        """End every instance, every build and the registry."""
        self._builds.end_all()
        self._instances.end_all()
        self._ecr.close()

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_while_starting(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.ready.set()

        await ministack.app(scope, receive, send_while_starting)

    async def _serve_admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        path = scope["path"].removeprefix(ADMIN_PATH)
        try:
            payload = json.loads(body) if body else dict(parse_qsl(scope["query_string"].decode()))
            status, answer = 200, self._admin.answer(scope["method"], path, payload)
        except json.JSONDecodeError as exc:
            status, answer = 400, {"error": "BadRequest", "message": str(exc)}
        except ApiError as exc:
            status, answer = exc.status, {"error": exc.code, "message": exc.message}
        await respond(send, status, "application/json", json.dumps(answer).encode())

    async def _serve_call(self, call: Call, receive: Receive, send: Send) -> None:
        responses.set_request_account_id(call.access_key)
        responses.set_request_region(_region(call))
        wire_format = _WIRES.get(call.service, _SSM_WIRE)
        answer: dict[str, Any] = {}
        try:
            if not self._takes(call):
                await self._pass_on(call, receive, send)
                return
            iam_evaluator.pin_request_origin((call.scope.get("client") or ("127.0.0.1",))[0], True)
            iam.pin_caller(call.access_key)
            gate = iam.Gate(
                service=call.service, access_key=call.access_key, tags_of=records.tags_of
            )
            answer = await self._answer(call, gate)
            body = wire_format.render(call.action, answer)
        except ApiError as exc:
            self._record(call, outcome=exc.code, message=exc.message)
            body = wire_format.refuse(exc.code, exc.message)
            await respond(send, exc.status, wire_format.content_type, body)
        except Exception as exc:
            logger.exception("%s failed", call.action)
            self._record(call, outcome="InternalError", message=repr(exc))
            body = wire_format.refuse(
                "InternalError", f"internal error of the local cloud: {exc!r}"
            )
            await respond(send, 500, wire_format.content_type, body)
        else:
            shown = {} if call.service == "iam" else {"answer": answer}
            self._record(call, outcome="ok", **shown)
            await respond(send, 200, wire_format.content_type, body)

    async def _answer(self, call: Call, gate: iam.Gate) -> dict[str, Any]:
        request = dict(call.request)
        if call.service == "ec2":
            return self._ec2.answer(call.action, request, gate)
        if call.service == "iam":
            return {"body": simulation.simulate(request, gate)}
        if call.service == "servicequotas":
            return dict(self._quotas.answer(call.action, request, gate))
        if call.service == "fis":
            return self._fis.answer(call.action, request, gate)
        if call.service == "ecr":
            # In a thread, since it waits for the registry.
            answer = partial(self._ecr.api.answer, access_key=call.access_key)
            return await asyncio.to_thread(answer, call.action, request, gate)
        return await self._ssm.answer(call.action, request, gate)

    def _takes(self, call: Call) -> bool:
        """Parse the call, and return whether it is answered here."""
        if call.service == "ec2":
            flat = protocol.form(call.body)
            call.action = flat.get("Action", "?")
            if not self._ec2.knows(call.action):
                call.request = {k: v for k, v in flat.items() if k not in {"Action", "Version"}}
                return False
            call.request = protocol.read_request(call.action, flat)
            return self._ec2.answers(call.action, call.request)
        if call.service == "iam":
            call.request = protocol.form(call.body)
            call.action = call.request.get("Action", "?")
            return call.action == simulation.ACTION
        named: dict[str, str] = {}
        if call.service == "fis":
            call.action, named = experiments.read_call(call.scope["method"], call.scope["path"])
        else:
            call.action = call.headers.get("x-amz-target", "?").rpartition(".")[2]
        try:
            call.request = json.loads(call.body or b"{}") | named
        except json.JSONDecodeError as exc:
            raise ApiError("SerializationException", str(exc)) from exc
        if call.service in {"servicequotas", "fis"}:
            return True
        if call.service == "ecr":
            limits.check("ecr", call.action, call.request)
            return self._ecr.api.answers(call.action)
        limits.check("ssm", call.action, call.request)
        return self._ssm.answers(call.action, call.request)

    async def _pass_on(self, call: Call, receive: Receive, send: Send) -> None:
        async def listen(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self._record(call, outcome="ok" if status < 400 else f"HTTP {status}")
            await send(message)

        await ministack.app(call.scope, replaying(call.body, receive), listen)

    def _record(self, call: Call, *, outcome: str, **fields: Any) -> None:
        self._calls.add(
            service=call.service,
            action=call.action,
            caller=iam.caller_arn(call.access_key),
            params=_plain(call.request),
            outcome=outcome,
            **_plain(fields),
        )


def build(home: Path, *, url: str, account: str, region: str, setup: Setup) -> Gateway:
    """Assemble a local cloud."""
    market, knobs, journal, calls = Market(), setup.knobs, Journal(), Journal()
    iam.count_loopback_as_tls()
    iam.trust_the_guard()
    conditional_writes.install()
    policy_variables.install()
    item_conditions.install()
    used = used_permissions.install()
    bus = EventBus(knobs, account=account, region=region)
    builds = assemble_builds(home, endpoint=url, knobs=knobs, bus=bus, no_engine=setup.no_engine)
    resources.install(machine_of=workflows.install(knobs, builds))
    functions.install(home)
    objects.install(home / "s3")
    missing_objects.install()
    instances = Instances(
        home,
        endpoint=url,
        market=market,
        journal=journal,
        bus=bus,
        issue_credentials=iam.RoleCredentials().issue,
        setup=setup,
    )
    ssm = Ssm(instances, endpoint=url)
    admin = Admin(
        market=market,
        instances=instances,
        journal=journal,
        calls=calls,
        used=used,
        account=account,
        region=region,
        setup=setup,
        sessions=ssm.sessions,
    )
    volumes, quotas = Volumes(), Quotas(knobs, market)
    ec2 = Ec2(instances, Fleets(instances, volumes, quotas), volumes)
    ecr = RegistryService(home / "tmp/registry", calls)
    provisioning.install(ssm)
    ec2_provisioning.install(instances.is_placed)
    protocol.service_model("ec2")  # now, not in the first call
    return Gateway(
        ec2=ec2,
        ssm=ssm,
        quotas=quotas,
        fis=experiments.Experiments(instances),
        ecr=ecr,
        admin=admin,
        instances=instances,
        builds=builds,
        calls=calls,
    )


def _region(call: Call) -> str | None:
    match = _CREDENTIAL.search(call.headers.get("authorization", ""))
    return match.group(2) if match else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _document(body: bytes) -> dict[str, Any]:
    """Parse a JSON body; ministack refuses an invalid one."""
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
