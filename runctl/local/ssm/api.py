"""The calls of SSM that the gateway answers itself: commands, agents and public parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from botocore.model import StructureShape
from botocore.validate import ParamValidator

from runctl.local.core import catalog, protocol, records
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.applied import check_applied
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.instances import Instances
from runctl.local.ssm.agents import Agents
from runctl.local.ssm.commands import Commands
from runctl.local.ssm.sessions import Sessions

_PUBLIC = "/aws/service/"


class Ssm:
    """Answers the actions for which `answers` is true."""

    def __init__(self, instances: Instances, *, endpoint: str) -> None:
        agents = Agents(instances)
        commands = Commands(instances, agents)
        self.sessions = Sessions(agents, endpoint=endpoint)
        self.documents = commands.documents
        self._actions: Mapping[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "SendCommand": commands.send,
            "GetCommandInvocation": commands.get_invocation,
            "ListCommandInvocations": commands.list_invocations,
            "ListCommands": commands.list_commands,
            "DescribeInstanceInformation": agents.describe,
            "StartSession": self.sessions.start,
            "TerminateSession": self.sessions.terminate,
            "GetParameter": self._get_parameter,
            "GetParameters": self._get_parameters,
        }

    def answers(self, action: str, request: Mapping[str, Any]) -> bool:
        """Return whether a call is answered here; ministack has the account's own parameters."""
        if action == "GetParameter":
            return str(request.get("Name", "")).startswith(_PUBLIC)
        if action == "GetParameters":
            names = request.get("Names") or [""]
            return all(str(name).startswith(_PUBLIC) for name in names)
        return action in self._actions

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
        return await self._actions[action](request, authorize)

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
