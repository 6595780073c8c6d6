"""AWS FIS: experiment templates that interrupt spot instances, and their experiments.

Shapes as in botocore's model `fis`; the action as in fis-actions-reference.html. An experiment acts
as the role of its template, whose trust policy and permissions are evaluated when it starts.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from runctl.local.core import iam, limits, records
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.instances import Instances

ACTION = "aws:ec2:send-spot-instance-interruptions"
TARGET = "aws:ec2:spot-instance"
_PRINCIPAL = "fis.amazonaws.com"
# The notice of an interruption comes two minutes ahead, a recommendation to rebalance earlier.
_NOTICE_SECONDS = 120
_DURATION = re.compile(r"PT(\d+)M")
_MIN_MINUTES, _MAX_MINUTES, _MAX_TARGETS = 2, 15, 5
_ROUTES = {
    ("POST", "experimentTemplates"): "CreateExperimentTemplate",
    ("POST", "experiments"): "StartExperiment",
}
_ROUTES_TO_ONE = {
    ("GET", "experimentTemplates"): "GetExperimentTemplate",
    ("DELETE", "experimentTemplates"): "DeleteExperimentTemplate",
    ("GET", "experiments"): "GetExperiment",
}
Record = dict[str, Any]


def read_call(method: str, path: str) -> tuple[str, dict[str, str]]:
    """Return the action of a REST request, `?` for an unknown one, and what its path names."""
    kind, _, name = path.strip("/").partition("/")
    if name:
        return _ROUTES_TO_ONE.get((method, kind), "?"), {"id": unquote(name)}
    return _ROUTES.get((method, kind), "?"), {}


class Experiments:
    """The experiment templates and experiments of the account."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._templates: dict[str, Record] = {}
        self._experiments: dict[str, Record] = {}
        # What a client token was first used for: the request, and the id that it gave.
        self._tokens: dict[tuple[str, str], tuple[Mapping[str, Any], Record]] = {}
        self._calls: Mapping[str, Callable[[Mapping[str, Any], iam.Gate], Record]] = {
            "CreateExperimentTemplate": self._create,
            "GetExperimentTemplate": self._get_template,
            "DeleteExperimentTemplate": self._delete,
            "StartExperiment": self._start,
            "GetExperiment": self._get,
        }

    def answer(self, action: str, request: Mapping[str, Any], gate: iam.Gate) -> Record:
        """Perform one call of FIS."""
        if action not in self._calls:
            raise ApiError("UnknownOperationException", "The local cloud has no such call of FIS.")
        limits.check("fis", action, request)
        return self._calls[action](request, gate)

    def _create(self, request: Mapping[str, Any], gate: iam.Gate) -> Record:
        names = sorted({str(action.get("actionId")) for action in request["actions"].values()})
        gate("CreateExperimentTemplate", fault=names, role=[request["roleArn"]])
        _check_template(request)
        return self._once("CreateExperimentTemplate", request, self._new_template)

    def _new_template(self, request: Mapping[str, Any]) -> Record:
        template_id = f"EXT{secrets.token_hex(8)}"
        now = time.time()
        template = {
            **{key: value for key, value in request.items() if key != "clientToken"},
            "id": template_id,
            "arn": _arn("experiment-template", template_id),
            "creationTime": now,
            "lastUpdateTime": now,
        }
        self._templates[template_id] = template
        return {"experimentTemplate": template}

    def _once(
        self, action: str, request: Mapping[str, Any], perform: Callable[..., Record]
    ) -> Record:
        """Perform a request once for each client token."""
        key = (action, request["clientToken"])
        if key in self._tokens:
            earlier, answer = self._tokens[key]
            if earlier != request:
                raise ApiError(
                    "ConflictException", "The client token was used with other values.", status=409
                )
            return answer
        answer = perform(request)
        self._tokens[key] = (dict(request), answer)
        return answer

    def _get_template(self, request: Mapping[str, Any], gate: iam.Gate) -> Record:
        gate("GetExperimentTemplate", template=[request["id"]])
        return {"experimentTemplate": self._template(request["id"])}

    def _delete(self, request: Mapping[str, Any], gate: iam.Gate) -> Record:
        gate("DeleteExperimentTemplate", template=[request["id"]])
        template = self._template(request["id"])
        del self._templates[request["id"]]
        return {"experimentTemplate": template}

    def _template(self, template_id: str) -> Record:
        if template_id not in self._templates:
            raise ApiError(
                "ResourceNotFoundException",
                f"There is no experiment template {template_id}.",
                status=404,
            )
        return self._templates[template_id]

    def _start(self, request: Mapping[str, Any], gate: iam.Gate) -> Record:
        gate("StartExperiment", template=[request["experimentTemplateId"]])
        return self._once("StartExperiment", request, self._new_experiment)

    def _new_experiment(self, request: Mapping[str, Any]) -> Record:
        template = self._template(request["experimentTemplateId"])
        experiment_id = f"EXP{secrets.token_hex(8)}"
        experiment = {
            "id": experiment_id,
            "arn": _arn("experiment", experiment_id),
            "experimentTemplateId": template["id"],
            **{key: template[key] for key in ("roleArn", "targets", "actions", "stopConditions")},
            "creationTime": time.time(),
            "startTime": time.time(),
        }
        problem = self._perform(template, experiment["arn"])
        status = "failed" if problem else "completed"
        self._experiments[experiment_id] = {
            **experiment,
            "state": {"status": status, "reason": problem or "Experiment completed"},
            "endTime": time.time(),
        }
        return {"experiment": {**experiment, "state": {"status": "initiating"}}}

    def _perform(self, template: Mapping[str, Any], arn: str) -> str:
        """Interrupt the targets; return why that was not possible, empty if it was."""
        role = template["roleArn"]
        source = {"aws:SourceAccount": arn.split(":")[4], "aws:SourceArn": arn}
        if refusal := iam.denied_to_service(role, _PRINCIPAL, source):
            return f"Unable to assume role {role}: {refusal}"
        for action in template["actions"].values():
            (target,) = (template["targets"][name] for name in action["targets"].values())
            early = _minutes(action) * 60 - _NOTICE_SECONDS
            for instance_arn in target["resourceArns"]:
                if problem := self._interrupt(role, instance_arn, early):
                    return problem
        return ""

    def _interrupt(self, role: str, instance_arn: str, early: int) -> str:
        """Interrupt an instance as the role; `early` is the time until its notice."""
        instance_id = instance_arn.rpartition("/")[2]
        try:
            instance = self._instances.get(instance_id)
        except ApiError as exc:
            return f"Target resolution returned empty set: {exc.message}"
        tags = {f"aws:ResourceTag/{key}": value for key, value in instance.tags.items()}
        tags |= {f"ec2:ResourceTag/{key}": value for key, value in instance.tags.items()}
        facts = {
            "region": [instance.region],
            "account": [instance.account],
            "instance": [instance_id],
        }
        if refusal := iam.refusal_of_role(role, "fis", ACTION, facts, tags):
            return refusal
        if instance.state != "running" or instance.lifecycle != "spot":
            return "Target resolution returned empty set"
        self._instances.recommend_rebalance(instance)

        def interrupt() -> None:
            if instance.is_alive and not instance.notice:
                self._instances.interrupt(instance, notice=True, notice_seconds=_NOTICE_SECONDS)

        if early:
            self._instances.call_later(early, interrupt)
        else:
            interrupt()
        return ""

    def _get(self, request: Mapping[str, Any], gate: iam.Gate) -> Record:
        gate("GetExperiment", experiment=[request["id"]])
        if request["id"] not in self._experiments:
            raise ApiError(
                "ResourceNotFoundException", f"There is no experiment {request['id']}.", status=404
            )
        return {"experiment": self._experiments[request["id"]]}


def _arn(kind: str, name: str) -> str:
    return f"arn:aws:fis:{records.region()}:{records.account_id()}:{kind}/{name}"


def _minutes(action: Mapping[str, Any]) -> int:
    match = _DURATION.fullmatch(action.get("parameters", {}).get("durationBeforeInterruption", ""))
    return int(match[1]) if match else 0


def _check_template(request: Mapping[str, Any]) -> None:
    """Refuse what FIS refuses, and what the local cloud cannot do."""
    if not request["actions"] or not request["stopConditions"]:
        raise _invalid("actions and stopConditions must not be empty")
    targets = request.get("targets") or {}
    for action in request["actions"].values():
        if action["actionId"] != ACTION:
            raise _invalid(f"the local cloud has no action {action['actionId']}")
        if not _MIN_MINUTES <= _minutes(action) <= _MAX_MINUTES:
            raise _invalid("durationBeforeInterruption must be from PT2M to PT15M")
        named = action.get("targets") or {}
        if set(named) != {"SpotInstances"} or named["SpotInstances"] not in targets:
            raise _invalid("the action needs the target SpotInstances")
    for target in targets.values():
        if target["resourceType"] != TARGET or target["selectionMode"] != "ALL":
            raise _invalid(f"the local cloud has targets of {TARGET} with ALL only")
        if not 0 < len(target.get("resourceArns", ())) <= _MAX_TARGETS:
            raise _invalid(f"resourceArns must name 1 to {_MAX_TARGETS} instances")


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)
