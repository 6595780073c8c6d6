"""The account of a deployment, as `verify` reads it: lists, simulations, tests and dry runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.clients import AnyClients
from runctl.aws.errors import code_of, message_of, translated
from runctl.aws.own_data import OwnData
from runctl.aws.repeated_calls import repeat_call
from runctl.aws.routing import read_subnet
from runctl.model.deployed import (
    Denial,
    PublishedImage,
    StackResource,
    StateAnswer,
    StateMachine,
    StateTest,
    Subnet,
    Template,
)
from runctl.model.refusal import FAULTS, SETUP, THROTTLING

_ALLOWED = "allowed"
_STACKS = ("storage", "compute", "orchestration")
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
# How the simulator takes the values of condition keys that are not single strings.
_KINDS: Mapping[str, str] = {
    "aws:TagKeys": "stringList",
    "dynamodb:Attributes": "stringList",
    "dynamodb:LeadingKeys": "stringList",
    "ec2:IsLaunchTemplateResource": "boolean",
    "kms:ResourceAliases": "stringList",
    "kms:GrantIsForAWSResource": "boolean",
}
# In addition to the retries of the client.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_NOT_FOUND = frozenset({"NoSuchEntity", "NoSuchEntityException", "ParameterNotFound"})
_NO_IMAGE = frozenset(
    {"InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"}
)


class AwsDeployedAccount(OwnData):
    """Implements `runctl.control.ports.deployed_account.DeployedAccount`.

    Nothing is created or changed. Every call may be repeated; throttling is retried inside, and
    then raises TransientError. A missing permission raises RefusedError, which names the action.
    """

    def __init__(
        self, clients: AnyClients, name: str, pause: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(clients)
        self._name, self._pause = name, pause

    def resources(self) -> list[StackResource]:
        """Return the resources of the deployment's stacks."""
        pages = self._clients.get("cloudformation").get_paginator("list_stack_resources")
        with translated():
            return [
                StackResource(
                    logical_id=found["LogicalResourceId"],
                    physical_id=found.get("PhysicalResourceId", ""),
                    kind=found["ResourceType"],
                )
                for stack in _STACKS
                for page in pages.paginate(StackName=f"{self._name}-{stack}")
                for found in page["StackResourceSummaries"]
            ]

    def denied(
        self,
        role: str,
        actions: Sequence[str],
        resources: Sequence[str],
        context: Mapping[str, Sequence[str]],
    ) -> list[Denial]:
        """Return what the role's policies do not allow, of every action on every resource."""
        pages = self._clients.get("iam").get_paginator("simulate_principal_policy")
        entries = [
            {
                "ContextKeyName": key,
                "ContextKeyType": _KINDS.get(key, "string"),
                "ContextKeyValues": list(values),
            }
            for key, values in context.items()
        ]
        asked: dict[str, Any] = {
            "PolicySourceArn": role,
            "ActionNames": list(actions),
            "ResourceArns": list(resources),
            "ContextEntries": entries,
        }
        found: list[Denial] = self._patiently(
            lambda: [
                denial
                for page in pages.paginate(**asked)
                for result in page["EvaluationResults"]
                for denial in _denials(result, resources)
            ]
        )
        return found

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Repeat a call that is throttled: there are hundreds of these, and their rate is low."""
        return repeat_call(call, pauses=_PAUSES, pause=self._pause)

    def state_machine(self, arn: str) -> StateMachine:
        """Return a state machine with its current definition."""
        with translated():
            answer = self._clients.get("stepfunctions").describe_state_machine(stateMachineArn=arn)
        return StateMachine(arn=arn, definition=json.loads(answer["definition"]))

    def test_state(self, test: StateTest) -> StateAnswer:
        """Test one state; it runs nothing, but a Wait state really waits."""
        request: dict[str, Any] = {
            "definition": json.dumps(test.state),
            "input": json.dumps(test.data),
            "variables": json.dumps(test.variables),
            "inspectionLevel": "DEBUG",
        }
        if test.error is not None:
            name, cause = test.error
            request["mock"] = {"errorOutput": {"error": name, "cause": cause}}
            # It is about a Retry, which not every state has.
            if test.tries:
                request["stateConfiguration"] = {"retrierRetryCount": test.tries}
        elif test.result is not None:
            # The API's model has a function's payload as text, an execution has it as JSON.
            request["mock"] = {"result": json.dumps(test.result), "fieldValidationMode": "NONE"}
        if test.context is not None and "mock" in request:
            request["context"] = json.dumps(test.context)
        client = self._clients.get("stepfunctions")
        answer = self._patiently(lambda: client.test_state(**request))
        variables = answer.get("inspectionData", {}).get("variables")
        return StateAnswer(
            status=answer["status"],
            output=json.loads(answer["output"]) if answer.get("output") else None,
            next_state=answer.get("nextState", ""),
            error=answer.get("error", ""),
            cause=answer.get("cause", ""),
            variables=json.loads(variables) if variables else dict(test.variables),
        )

    def template(self, template_id: str) -> Template:
        """Return the newest version of a launch template."""
        with translated():
            answer = self._clients.get("ec2").describe_launch_template_versions(
                LaunchTemplateId=template_id, Versions=["$Latest"]
            )
        data = answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        return Template(template_id=template_id, data=data)

    def resolve_parameter(self, name: str) -> str | None:
        """Return the value of a parameter; None if it does not exist."""
        with translated():
            answer = self._clients.get("ssm").get_parameters(Names=[name])
        return next((str(found["Value"]) for found in answer["Parameters"]), None)

    def image(self, image_id: str) -> PublishedImage | None:
        """Return an image; None if it does not exist, or is private to another account."""
        with translated():
            try:
                # Without it EC2 shows a deprecated image to nobody but its owner.
                answer = self._clients.get("ec2").describe_images(
                    ImageIds=[image_id], IncludeDeprecated=True
                )
            except ClientError as exc:
                if code_of(exc) in _NO_IMAGE:
                    return None
                raise
        for found in answer["Images"]:
            return PublishedImage(
                image_id=found["ImageId"],
                state=found["State"],
                root_device=found.get("RootDeviceName", ""),
                made_at=_moment(found.get("CreationDate")),
                deprecated_at=_moment(found.get("DeprecationTime")),
            )
        return None

    def profile_role(self, arn: str) -> str | None:
        """Return the name of the role of an instance profile; None if either does not exist."""
        with translated():
            try:
                answer = self._clients.get("iam").get_instance_profile(
                    InstanceProfileName=arn.rpartition("/")[2]
                )
            except ClientError as exc:
                if code_of(exc) in _NOT_FOUND:
                    return None
                raise
        return next((str(role["RoleName"]) for role in answer["InstanceProfile"]["Roles"]), None)

    def refusal_of_instances(
        self, template: Template, *, instance_type: str, subnet_id: str
    ) -> tuple[str, str] | None:
        """Return why a launch into a subnet would be refused, by a dry run."""
        return self._dry_run(
            "run_instances",
            LaunchTemplate={"LaunchTemplateId": template.template_id, "Version": "$Latest"},
            InstanceType=instance_type,
            # RunInstances refuses a SubnetId of its own beside the interface of the template.
            NetworkInterfaces=[{**template.interface, "SubnetId": subnet_id}],
            MinCount=1,
            MaxCount=1,
        )

    def refusal_of_fleet(
        self, template_id: str, *, instance_type: str, subnet_ids: Sequence[str]
    ) -> tuple[str, str] | None:
        """Return why a fleet would be refused, by a dry run."""
        overrides = [
            {"InstanceType": instance_type, "SubnetId": subnet_id} for subnet_id in subnet_ids
        ]
        specification = {"LaunchTemplateId": template_id, "Version": "$Latest"}
        return self._dry_run(
            "create_fleet",
            Type="instant",
            LaunchTemplateConfigs=[
                {"LaunchTemplateSpecification": specification, "Overrides": overrides}
            ],
            TargetCapacitySpecification={
                "TotalTargetCapacity": 1,
                "DefaultTargetCapacityType": "spot",
            },
        )

    def running_instance(self, security_group: str) -> str | None:
        """Return an instance of a security group that is running, if there is one."""
        filters = [
            {"Name": "instance.group-id", "Values": [security_group]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
        pages = (
            self._clients.get("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        )
        with translated():
            for page in pages:
                for reservation in page["Reservations"]:
                    for instance in reservation["Instances"]:
                        return str(instance["InstanceId"])
        return None

    def refusal_of_termination(self, instance_id: str) -> tuple[str, str] | None:
        """Return why a termination would be refused, by a dry run."""
        return self._dry_run("terminate_instances", InstanceIds=[instance_id])

    def _dry_run(self, call: str, **request: Any) -> tuple[str, str] | None:
        """Return the refusal of a dry run; None if it would have succeeded.

        A permission that the caller lacks is none of the deployment's: it raises RefusedError.
        """
        with translated():
            try:
                getattr(self._clients.get("ec2"), call)(DryRun=True, **request)
            except ClientError as exc:
                code = code_of(exc)
                if code == "DryRunOperation":
                    return None
                if code in SETUP | THROTTLING | FAULTS:
                    raise
                return code, message_of(exc)
        return "no answer", "EC2 has not treated it as a dry run"

    def subnet(self, subnet_id: str) -> Subnet:
        """Return the routes of a subnet and the endpoints that it reaches."""
        with translated():
            return read_subnet(self._clients.get("ec2"), subnet_id)

    def quota(self, code: str) -> int:
        """Return a quota of EC2; if it was never changed, AWS's default."""
        client = self._clients.get("service-quotas")
        which = {"ServiceCode": "ec2", "QuotaCode": code}
        with translated():
            try:
                answer = client.get_service_quota(**which)
            except ClientError as exc:
                if code_of(exc) != "NoSuchResourceException":
                    raise
                answer = client.get_aws_default_service_quota(**which)
        return int(answer["Quota"]["Value"])

    def default_key(self) -> str:
        """Return the account's default key for volumes in this region."""
        with translated():
            return str(self._clients.get("ec2").get_ebs_default_kms_key_id()["KmsKeyId"])

    def has_role(self, name: str) -> bool:
        """Whether the account has a role."""
        with translated():
            try:
                self._clients.get("iam").get_role(RoleName=name)
            except ClientError as exc:
                if code_of(exc) in _NOT_FOUND:
                    return False
                raise
        return True

    def has_log_group(self, name: str) -> bool:
        """Whether a log group exists."""
        pages = self._clients.get("logs").get_paginator("describe_log_groups")
        with translated():
            return any(
                found["logGroupName"] == name
                for page in pages.paginate(logGroupNamePrefix=name)
                for found in page["logGroups"]
            )

    def public_access(self, bucket: str) -> list[str]:
        """Return the settings that a bucket's public access block lacks."""
        with translated():
            try:
                answer = self._clients.get("s3").get_public_access_block(Bucket=bucket)
            except ClientError as exc:
                if code_of(exc) != "NoSuchPublicAccessBlockConfiguration":
                    raise
                return list(_BLOCKS)
        settings = answer["PublicAccessBlockConfiguration"]
        return [name for name in _BLOCKS if not settings.get(name)]


def _denials(result: Mapping[str, Any], resources: Sequence[str]) -> list[Denial]:
    """Return what a result denies: there is one for each action, with a decision per resource."""
    action = result["EvalActionName"]
    found = [
        _denial(action, each["EvalResourceName"], each["EvalResourceDecision"], each)
        for each in result.get("ResourceSpecificResults", ())
        if each["EvalResourceDecision"] != _ALLOWED
    ]
    if found or result["EvalDecision"] == _ALLOWED:
        return found
    # The decision about all of them; its own EvalResourceName is only a pattern of ARNs.
    return [_denial(action, " or ".join(resources), result["EvalDecision"], result)]


def _denial(action: str, resource: str, decision: str, details: Mapping[str, Any]) -> Denial:
    missing = tuple(details.get("MissingContextValues", ()))
    return Denial(action=action, resource=resource, decision=decision, missing=missing)


def _moment(text: str | None) -> datetime | None:
    # Python 3.10 does not read a Z.
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
