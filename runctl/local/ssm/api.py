"""The SSM calls that concern instances: commands, registered agents, public parameters."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from botocore.model import StructureShape
from botocore.validate import ParamValidator

from runctl.local.core import catalog, iam, protocol, records
from runctl.local.core.instance import Instance
from runctl.local.core.permissions import REQUIRED
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.applied import check_applied
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.filters import page
from runctl.local.ec2.instances import Instances
from runctl.local.ssm.documents import RUN_SHELL_SCRIPT, Document, Step

_PUBLIC = "/aws/service/"
_STDOUT_LIMIT, _STDERR_LIMIT = 24_000, 8_000
_MAX_TARGETS = 50
_FINAL = {"Success", "Failed", "TimedOut", "Cancelled"}
_ANSWERED = {
    "SendCommand", "GetCommandInvocation", "ListCommandInvocations", "ListCommands",
    "DescribeInstanceInformation",
}  # fmt: skip


@dataclass
class _Invocation:
    """One command on one instance."""

    command_id: str
    instance_id: str
    document: str
    comment: str
    requested_at: float
    status: str = "Pending"
    details: str = "Pending"
    code: int = -1
    started: str = ""
    ended: str = ""
    stdout: str = ""
    stderr: str = ""
    plugin: str = ""


@dataclass
class _Command:
    """One SendCommand."""

    command_id: str
    request: dict[str, Any]
    requested_at: float
    invocations: dict[str, _Invocation] = field(default_factory=dict)


class Ssm:
    """Answers actions; `answers` says which."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self.documents: dict[str, Document] = {RUN_SHELL_SCRIPT.name: RUN_SHELL_SCRIPT}
        self._commands: dict[str, _Command] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def answers(self, action: str, request: Mapping[str, Any]) -> bool:
        """Say whether a call is answered here; parameters of the account are ministack's."""
        if action == "GetParameter":
            return str(request.get("Name", "")).startswith(_PUBLIC)
        if action == "GetParameters":
            names = request.get("Names") or [""]
            return all(str(name).startswith(_PUBLIC) for name in names)
        return action in _ANSWERED

    async def answer(
        self, action: str, request: dict[str, Any], authorize: Authorize
    ) -> dict[str, Any]:
        """Perform one call."""
        shape = protocol.operation("ssm", action).input_shape
        if isinstance(shape, StructureShape):
            if unknown := set(request) - set(shape.members):
                raise ApiError("ValidationException", f"{action} has no {sorted(unknown)}")
            report = ParamValidator().validate(request, shape)
            if report.has_errors():
                raise ApiError("ValidationException", report.generate_report())
        check_applied("ssm", action, request)
        handlers: Mapping[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "SendCommand": self._send,
            "GetCommandInvocation": self._get_invocation,
            "ListCommandInvocations": self._list_invocations,
            "ListCommands": self._list_commands,
            "DescribeInstanceInformation": self._describe_agents,
            "GetParameter": self._get_parameter,
            "GetParameters": self._get_parameters,
        }
        return await handlers[action](request, authorize)

    async def _send(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        targets = list(request.get("InstanceIds", []))
        for target in request.get("Targets", []):
            if target.get("Key", "").lower() != "instanceids":
                raise ApiError(
                    "UnsupportedOperation", "The local cloud has InstanceIds targets only"
                )
            targets += target.get("Values", [])
        if not targets or len(targets) > _MAX_TARGETS:
            raise ApiError("ValidationException", "InstanceIds names between 1 and 50 instances")
        name = request["DocumentName"].rpartition("/")[2]
        is_public = name.startswith("AWS-")
        authorize(
            "SendCommand",
            document=[] if is_public else [name],
            public_document=[name] if is_public else [],
            instance=targets,
            unregistered=[one for one in targets if not self._is_known(one)],
        )
        document = self.documents.get(name)
        if document is None:
            raise ApiError("InvalidDocument", f"There is no document {name}")
        reached = [self._reach(one) for one in targets]
        steps = document.fill_in(request.get("Parameters", {}))
        command = _Command(str(uuid.uuid4()), request, time.time())
        self._commands[command.command_id] = command
        for instance in reached:
            invocation = _Invocation(
                command_id=command.command_id,
                instance_id=instance.instance_id,
                document=name,
                comment=request.get("Comment", ""),
                requested_at=command.requested_at,
            )
            command.invocations[instance.instance_id] = invocation
            task = asyncio.create_task(self._run(instance, invocation, steps))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return {"Command": _shown(command)}

    def _is_known(self, instance_id: str) -> bool:
        try:
            self._reach(instance_id)
        except ApiError:
            return False
        return True

    def _reach(self, instance_id: str) -> Instance:
        refusal = ApiError(
            "InvalidInstanceId",
            f"Instances [[{instance_id}]] not in a valid state for account {records.account_id()}",
        )
        try:
            instance = self._instances.get(instance_id)
        except ApiError as exc:
            raise refusal from exc
        if not _is_registered(instance):
            raise refusal
        return instance

    async def _run(self, instance: Instance, invocation: _Invocation, steps: list[Step]) -> None:
        folder = instance.root / "var/lib/amazon/ssm" / invocation.command_id
        folder.mkdir(parents=True)
        out, err = folder / "stdout", folder / "stderr"
        invocation.status, invocation.details = "InProgress", "InProgress"
        invocation.started = _now()
        status: int | None = 0
        for step in steps:
            invocation.plugin = step.name
            status = await self._instances.run_job(
                instance,
                ["/bin/sh", "-c", str(_write_script(folder, step))],
                output=out,
                errors=err,
                timeout_seconds=step.timeout_seconds,
            )
            if status != 0:
                break
        if status is None and not instance.is_alive:
            return  # nobody is left to report: the command stays in progress
        invocation.stdout = _read(out, _STDOUT_LIMIT)
        invocation.stderr = _read(err, _STDERR_LIMIT)
        invocation.ended = _now()
        invocation.code = -1 if status is None else status
        invocation.details = (
            "Execution Timed Out" if status is None else "Failed" if status else "Success"
        )
        # Last: who sees a final status must see the output too.
        invocation.status = "TimedOut" if status is None else invocation.details

    async def _get_invocation(
        self, request: dict[str, Any], authorize: Authorize
    ) -> dict[str, Any]:
        authorize("GetCommandInvocation")
        command = self._commands.get(request["CommandId"])
        found = command.invocations.get(request["InstanceId"]) if command else None
        if found is None:
            raise ApiError("InvocationDoesNotExist", "No such invocation")
        if request.get("PluginName", found.plugin) != found.plugin:
            raise ApiError("InvalidPluginName", f"{found.document} has no such step")
        return {
            "CommandId": found.command_id,
            "InstanceId": found.instance_id,
            "Comment": found.comment,
            "DocumentName": found.document,
            "PluginName": found.plugin,
            "ResponseCode": found.code,
            "ExecutionStartDateTime": found.started,
            "ExecutionEndDateTime": found.ended,
            "Status": found.status,
            "StatusDetails": found.details,
            "StandardOutputContent": found.stdout,
            "StandardErrorContent": found.stderr,
        }

    async def _list_invocations(
        self, request: dict[str, Any], authorize: Authorize
    ) -> dict[str, Any]:
        authorize("ListCommandInvocations")
        shown, token = page(
            [
                {
                    "CommandId": one.command_id,
                    "InstanceId": one.instance_id,
                    "Comment": one.comment,
                    "DocumentName": one.document,
                    "RequestedDateTime": one.requested_at,
                    "Status": one.status,
                    "StatusDetails": one.details,
                }
                for command in self._commands.values()
                for one in command.invocations.values()
                if request.get("CommandId", one.command_id) == one.command_id
                and request.get("InstanceId", one.instance_id) == one.instance_id
            ],
            request,
            least=1,
        )
        return {"CommandInvocations": shown, "NextToken": token or ""}

    async def _list_commands(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("ListCommands")
        found = [
            _shown(one)
            for one in self._commands.values()
            if request.get("CommandId", one.command_id) == one.command_id
            and request.get("InstanceId") in {None, *one.invocations}
        ]
        shown, token = page(found, request, least=1)
        return {"Commands": shown, "NextToken": token or ""}

    async def _describe_agents(
        self, request: dict[str, Any], authorize: Authorize
    ) -> dict[str, Any]:
        authorize("DescribeInstanceInformation")
        filters = {
            each.get("Key", each.get("key", "")): each.get("Values", each.get("valueSet", []))
            for each in (
                *request.get("Filters", []),
                *request.get("InstanceInformationFilterList", []),
            )
        }
        if others := set(filters) - {"InstanceIds"}:
            raise ApiError(
                "InvalidInstanceInformationFilterValue",
                f"The local cloud filters agents by InstanceIds only, not {sorted(others)}",
            )
        wanted = set(filters.get("InstanceIds", []))
        shown, token = page(
            [
                {
                    "InstanceId": one.instance_id,
                    "PingStatus": "Online",
                    "LastPingDateTime": time.time(),
                    "AgentVersion": "3.3.0.0",
                    "PlatformType": "Linux",
                    "ResourceType": "EC2Instance",
                    "IPAddress": one.private_ip,
                    "ComputerName": one.private_dns,
                }
                for one in self._instances.all()
                if _is_registered(one) and (not wanted or one.instance_id in wanted)
            ],
            request,
            least=1,
        )
        return {"InstanceInformationList": shown, "NextToken": token or ""}

    async def _get_parameter(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("GetParameter", parameter=[request["Name"]])
        try:
            return {"Parameter": _public_parameter(request["Name"])}
        except ApiError as exc:
            raise ApiError("ParameterNotFound", exc.message) from exc

    async def _get_parameters(
        self, request: dict[str, Any], authorize: Authorize
    ) -> dict[str, Any]:
        authorize("GetParameters", parameter=request["Names"])
        known = [name for name in request["Names"] if catalog.is_image_parameter(name)]
        invalid = [name for name in request["Names"] if name not in known]
        return {
            "Parameters": [_public_parameter(name) for name in known],
            "InvalidParameters": invalid,
        }


def _is_registered(instance: Instance) -> bool:
    """Say whether the instance's SSM agent has registered, which its role must allow."""
    if not instance.agent_ready or instance.profile is None or instance.state != "running":
        return False
    role = records.role_arn(instance.profile.role)
    needed = REQUIRED["ssm-agent", "register"]
    return not any(iam.denied_to_role(role, one.action, "*") for one in needed)


def _write_script(folder: Path, step: Step) -> Path:
    script = folder / f"{step.name}.sh"
    into = f"cd '{step.working_directory}' || exit 1\n" if step.working_directory else ""
    script.write_text(into + step.script + "\n")
    script.chmod(0o700)
    return script


def _read(path: Path, limit: int) -> str:
    return path.read_text(errors="replace")[:limit] if path.exists() else ""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _public_parameter(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Type": "String",
        "Value": catalog.resolve_image(name),
        "Version": 1,
        "LastModifiedDate": 1_728_518_400,
        "ARN": f"arn:aws:ssm:{records.region()}::parameter{name}",
        "DataType": "aws:ec2:image",
    }


def _shown(command: _Command) -> dict[str, Any]:
    statuses = [one.status for one in command.invocations.values()]
    ended = [one for one in statuses if one in _FINAL]
    failed = [one for one in ended if one != "Success"]
    status = (
        "Pending"
        if all(one == "Pending" for one in statuses)
        else "InProgress"
        if len(ended) < len(statuses)
        else failed[0]
        if failed
        else "Success"
    )
    return {
        "CommandId": command.command_id,
        "DocumentName": command.request["DocumentName"],
        "Comment": command.request.get("Comment", ""),
        "Parameters": command.request.get("Parameters", {}),
        "InstanceIds": list(command.invocations),
        "RequestedDateTime": command.requested_at,
        "ExpiresAfter": command.requested_at + command.request.get("TimeoutSeconds", 3600),
        "Status": status,
        "StatusDetails": status,
        "TargetCount": len(statuses),
        "CompletedCount": len(ended),
        "ErrorCount": len(failed),
    }
