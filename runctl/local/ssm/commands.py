"""The commands of SSM: sent to instances, run there as programs, and described."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runctl.local.core.instance import Instance
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.filters import page
from runctl.local.ec2.instances import Instances
from runctl.local.ssm.agents import Agents
from runctl.local.ssm.documents import RUN_SHELL_SCRIPT, Document, Step

_STDOUT_LIMIT, _STDERR_LIMIT = 24_000, 8_000
_MAX_TARGETS = 50
_FINAL = {"Success", "Failed", "TimedOut", "Cancelled"}


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


class Commands:
    """Every command since the local cloud began, and the documents that commands run."""

    def __init__(self, instances: Instances, agents: Agents) -> None:
        self._instances, self._agents = instances, agents
        self.documents: dict[str, Document] = {RUN_SHELL_SCRIPT.name: RUN_SHELL_SCRIPT}
        self._commands: dict[str, _Command] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Send a command to instances (SendCommand)."""
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
            unregistered=[target for target in targets if not self._agents.is_registered(target)],
        )
        document = self.documents.get(name)
        if document is None:
            raise ApiError("InvalidDocument", f"There is no document {name}")
        reached = [self._agents.find(target) for target in targets]
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
            return  # no agent is left to report: the command stays in progress
        invocation.stdout = _read(out, _STDOUT_LIMIT)
        invocation.stderr = _read(err, _STDERR_LIMIT)
        invocation.ended = _now()
        invocation.code = -1 if status is None else status
        invocation.details = (
            "Execution Timed Out" if status is None else "Failed" if status else "Success"
        )
        # Last, so that the output is there when the status is final.
        invocation.status = "TimedOut" if status is None else invocation.details

    async def get_invocation(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Describe a command on one instance (GetCommandInvocation)."""
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

    async def list_invocations(
        self, request: dict[str, Any], authorize: Authorize
    ) -> dict[str, Any]:
        """List commands by instance (ListCommandInvocations)."""
        authorize("ListCommandInvocations")
        shown, token = page(
            [
                {
                    "CommandId": invocation.command_id,
                    "InstanceId": invocation.instance_id,
                    "Comment": invocation.comment,
                    "DocumentName": invocation.document,
                    "RequestedDateTime": invocation.requested_at,
                    "Status": invocation.status,
                    "StatusDetails": invocation.details,
                }
                for command in self._commands.values()
                for invocation in command.invocations.values()
                if request.get("CommandId", invocation.command_id) == invocation.command_id
                and request.get("InstanceId", invocation.instance_id) == invocation.instance_id
            ],
            request,
            least=1,
        )
        return {"CommandInvocations": shown, "NextToken": token or ""}

    async def list_commands(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """List commands (ListCommands)."""
        authorize("ListCommands")
        found = [
            _shown(command)
            for command in self._commands.values()
            if request.get("CommandId", command.command_id) == command.command_id
            and request.get("InstanceId") in {None, *command.invocations}
        ]
        shown, token = page(found, request, least=1)
        return {"Commands": shown, "NextToken": token or ""}


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


def _shown(command: _Command) -> dict[str, Any]:
    statuses = [invocation.status for invocation in command.invocations.values()]
    ended = [status for status in statuses if status in _FINAL]
    failed = [status for status in ended if status != "Success"]
    status = (
        "Pending"
        if set(statuses) <= {"Pending"}
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
