"""What each role of a deployment does, as data: `verify` asks IAM whether each role may.

A requirement names actions of IAM and the resources of one deployment, as templates with the facts
that `runctl.control.verify` reads from its stacks: a template with a fact without values requires
nothing, such as access to secrets in a deployment whose runs read none. The tests compare the list
with the synthesized policies, and with what each role used in the end-to-end tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from runctl.model.identity import RUN_TAG
from runctl.model.permissions import REQUIRED, Required

_OBJECT = "arn:aws:s3:::{bucket}/"
_STREAM = "arn:aws:logs:{region}:{account}:log-group:{log_group}:log-stream:verify"
_EC2 = "arn:aws:ec2:{region}:{account}"
_RULE = "arn:aws:events:{region}:{account}:rule/StepFunctionsGetEvent"
_LAMBDA = "arn:aws:lambda:{region}:{account}:function:{name}-"
_MACHINE = "arn:aws:states:{region}:{account}:stateMachine:{name}-"
_EXECUTION = "arn:aws:states:{region}:{account}:execution:{name}-"

Calls = tuple[Required, ...]


def _on(resources: tuple[str, ...], *actions: str, **conditions: str) -> Calls:
    """Return a requirement for each action, on all of the resources."""
    named = {name.replace("__", ":"): value for name, value in conditions.items()}
    return tuple(Required(action, resources, named) for action in actions)


def _ledger(*actions: str) -> Calls:
    return _on(("{table}",), *(f"dynamodb:{action}" for action in actions))


def _objects(action: str, *paths: str) -> Calls:
    return _on(tuple(f"{_OBJECT}{path}" for path in paths), f"s3:{action}")


def _calls(service: str, *names: str) -> Calls:
    return tuple(required for name in names for required in REQUIRED[service, name])


def _send(document: str) -> Calls:
    """Return what sending a document of ours to an instance needs, on both."""
    name = f"arn:aws:ssm:{{region}}:{{account}}:document/{document}"
    return _on((name, f"{_EC2}:instance/{{instance}}"), "ssm:SendCommand")


_READ = _ledger("GetItem", "Query")
_WRITE = _READ + _ledger("UpdateItem")
_CREATE = _WRITE + _ledger("PutItem")
_UNSETTLED = _on(("{table}/index/unsettled",), "dynamodb:Query")
# Without it S3 answers 403 for an object that does not exist.
_LIST = _on(("arn:aws:s3:::{bucket}",), "s3:ListBucket")
_OWN_BUCKETS = (
    *_on(("arn:aws:s3:::{readable}/verify",), "s3:GetObject"),
    *_on(("arn:aws:s3:::{readable}",), "s3:ListBucket"),
)
_READ_OBJECTS = (*_objects("GetObject", "code/verify.tar.gz"), *_LIST, *_OWN_BUCKETS)
_DESCRIBE = _calls("ec2", "DescribeInstances")
_END = _DESCRIBE + _calls("ec2", "TerminateInstances")
_STATUS = _calls("ec2", "DescribeInstanceStatus")
_TYPES = _calls("ec2", "DescribeInstanceTypes")
_REPORT = _on((f"{_MACHINE}train",), "states:SendTaskSuccess")
_EXECUTIONS = _on((f"{_EXECUTION}train:verify",), "states:DescribeExecution")
_STOP = _on((f"{_EXECUTION}train:verify",), "states:StopExecution")
_NOTIFY = _on(("{topic}",), "sns:Publish")
_COMMAND = _send("{command_document}")
_PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
_ANY_REPOSITORY = ("arn:aws:ecr:{region}:{account}:repository/verify",)
_FIND_IMAGES = _on(_ANY_REPOSITORY, *_PULL)
_PULL_IMAGES = (
    *_calls("ecr", "GetAuthorizationToken"),
    *_on(_ANY_REPOSITORY, *_PULL, "ecr:BatchCheckLayerAvailability"),
)
_SECRETS = (
    *_on(("{secret}",), "secretsmanager:GetSecretValue"),
    *_on(("{secret_parameter}",), "ssm:GetParameter"),
    *_on(("{secret_key}",), "kms:Decrypt", kms__ViaService="ssm.{region}.amazonaws.com"),
)
_FIND_SECRETS = _on(("{secret}",), "secretsmanager:DescribeSecret")
_PLAN_JOBS = (
    *_objects(
        "PutObject", "runs/verify/shards/plan.jsonl", "outputs/verify/_run.json", "outputs/.runctl"
    ),
    *_on(("arn:aws:s3:::{writable}/verify/_run.json",), "s3:PutObject"),
)
# What a dead-letter queue needs of its function's role.
_DEAD_LETTERS = _on(("{dead_letters}",), "sqs:SendMessage")
_LAUNCH: Calls = (
    *_WRITE,
    *_ledger("BatchGetItem", "ConditionCheckItem", "PutItem"),
    *_calls("ec2", "CreateFleet", "UseVolumeKey"),
    *_calls("servicequotas", "GetServiceQuota", "GetAWSDefaultServiceQuota"),
    *_TYPES,
    *_END,
    *_REPORT,
)

_FUNCTIONS: Mapping[str, Calls] = {
    "prepare_run": (
        *_CREATE, *_READ_OBJECTS, *_PLAN_JOBS, *_FIND_IMAGES, *_FIND_SECRETS, *_EXECUTIONS, *_END,
        *_TYPES,
    ),
    "record_image": (
        *_WRITE, *_FIND_IMAGES,
        *_on(("{project}",), "codebuild:BatchGetBuilds"),
        *_on((_STREAM,), "logs:GetLogEvents"),
    ),
    "launch_instances": (
        *_LAUNCH, *_send("{start_document}"), *_calls("ssm", "GetCommandInvocation"),
    ),
    "train": (*_WRITE, *_REPORT),
    # Executions that started before an upgrade call the function `train` by this name.
    "start_training": (*_WRITE, *_REPORT),
    "confirm_checkpoint": (*_WRITE, *_END, *_STATUS),
    "decide_next": (*_READ, *_EXECUTIONS),
    "finish_run": (*_WRITE, *_END, *_NOTIFY),
    "handle_interruption": (*_LAUNCH, *_COMMAND, *_DEAD_LETTERS),
    "handle_instance_change": (*_WRITE, *_DESCRIBE, *_REPORT, *_DEAD_LETTERS),
    "clean_up": (*_WRITE, *_END, *_NOTIFY, *_COMMAND, *_STOP, *_UNSETTLED, *_DEAD_LETTERS),
    "reconcile": (
        *_WRITE, *_END, *_NOTIFY, *_COMMAND, *_STOP, *_UNSETTLED, *_DEAD_LETTERS, *_STATUS,
        *_REPORT,
        *_on(
            tuple(f"{_EXECUTION}{machine}:verify" for machine in ("train", "process", "sweep")),
            "states:DescribeExecution",
        ),
        *_calls("ec2", "DescribeTags", "DescribeFleets", "DeleteFleets"),
        # Of machines whose lending has expired, and no other tag.
        *_on((f"{_EC2}:instance/{{instance}}",), "ec2:DeleteTags", aws__TagKeys="runctl:lent"),
        *_on(("{images_arn}",), "ecr:DescribeImages", "ecr:BatchDeleteImage"),
    ),
    "prune_environments": (
        *_UNSETTLED, *_LIST, *_DEAD_LETTERS,
        *_objects("GetObject", "environments/verify"),
        *_objects("DeleteObject", "environments/verify"),
    ),
    "prepare_sweep": (
        *_CREATE, *_READ_OBJECTS,
        *_on(
            tuple(f"{_EXECUTION}{machine}:verify" for machine in ("train", "sweep")),
            "states:DescribeExecution",
        ),
    ),
    "suggest_trial": _WRITE,
    "ask_trial": _WRITE,
    "record_trial": (*_WRITE, *_EXECUTIONS),
    "judge_trial": _WRITE,
    "issue_credentials": (
        *_READ, *_DESCRIBE,
        *_on(
            ("arn:aws:iam::{account}:instance-profile/verify",), "iam:GetInstanceProfile",
        ),
        *_on(("{run_role}",), "sts:AssumeRole", "sts:TagSession"),
        *_on(("{trainer_role}",), "sts:AssumeRole"),
    ),
    "finish_sweep": (
        *_WRITE, *_EXECUTIONS, *_UNSETTLED, *_STOP, *_NOTIFY,
        *_objects("PutObject", "groups/verify/results.json"),
    ),
    "plot_sweep": (*_READ, *_objects("PutObject", "groups/verify/plots/history.png")),
    "plan_shards": (*_CREATE, *_READ_OBJECTS, *_PLAN_JOBS, *_DESCRIBE),
    "finish_processing": (
        *_WRITE, *_UNSETTLED, *_STOP, *_NOTIFY, *_LIST,
        *_objects("GetObject", "runs/verify/shards/00000000.jsonl"),
        *_objects("PutObject", "outputs/verify/_index.jsonl"),
        *_on(("arn:aws:s3:::{writable}/verify/_index.jsonl",), "s3:PutObject"),
    ),
}  # fmt: skip


def _function(name: str, calls: Calls) -> Calls:
    """Add what every function does: write its own log."""
    stream = (
        "arn:aws:logs:{region}:{account}:log-group:/aws/lambda/{name}-"
        f"{name}:log-stream:verify"
    )
    return (*calls, *_on((stream,), "logs:CreateLogStream", "logs:PutLogEvents"))


# Step Functions writes the log of a state machine as its role; these have no resource types.
_DELIVER_LOGS = _on(
    ("*",),
    *(
        f"logs:{action}"
        for action in (
            "CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery",
            "ListLogDeliveries", "PutResourcePolicy", "DescribeResourcePolicies",
            "DescribeLogGroups",
        )
    ),
)  # fmt: skip


def _invoking(*functions: str) -> Calls:
    return _on(tuple(f"{_LAMBDA}{function}" for function in functions), "lambda:InvokeFunction")


def _awaiting(rule: str) -> Calls:
    return _on((f"{_RULE}{rule}",), "events:PutTargets", "events:PutRule", "events:DescribeRule")


_START_RUNS = (
    *_on((f"{_MACHINE}train",), "states:StartExecution"),
    *_on((f"{_EXECUTION}train:verify",), "states:DescribeExecution", "states:StopExecution"),
    *_awaiting("sForStepFunctionsExecutionRule"),
)


def _mapping(machine: str, label: str) -> Calls:
    """Return what a Distributed Map does, whose children are executions of NAME/LABEL."""
    child = f"{_EXECUTION}{machine}/{label}:verify"
    own = f"{_EXECUTION}{machine}:verify"
    return (
        *_on((f"{_MACHINE}{machine}",), "states:StartExecution"),
        *_on((own, child), "states:DescribeExecution", "states:StopExecution"),
        *_on((child,), "states:RedriveExecution"),
    )


_MACHINES: Mapping[str, Calls] = {
    "state machine train": (
        *_invoking(
            "prepare_run", "record_image", "launch_instances", "train", "start_training",
            "confirm_checkpoint", "decide_next", "finish_run", "clean_up",
        ),
        *_START_RUNS,
        *_on(
            ("{project}",), "codebuild:StartBuild", "codebuild:StopBuild",
            "codebuild:BatchGetBuilds",
        ),
        *_awaiting("ForCodeBuildStartBuildRule"),
        *_DELIVER_LOGS,
    ),
    "state machine sweep": (
        *_invoking(
            "prepare_sweep", "suggest_trial", "ask_trial", "record_trial", "finish_sweep",
            "plot_sweep", "clean_up",
        ),
        *_START_RUNS, *_mapping("sweep", "Trials"), *_DELIVER_LOGS,
    ),
    "state machine process": (
        *_invoking("plan_shards", "finish_processing", "clean_up"),
        *_START_RUNS, *_mapping("process", "Batches"), *_DELIVER_LOGS,
    ),
}  # fmt: skip

_RUN_ITEMS = {"dynamodb__LeadingKeys": "RUN#verify"}
# The tags of the session of a run, which the policy of its role refers to.
_TAGS = {
    "aws__PrincipalTag/RunId": "verify", "aws__PrincipalTag/Attempt": "0001",
    "aws__PrincipalTag/Group": "verify", "aws__PrincipalTag/Instance": "i-0123456789abcdef0",
    "aws__PrincipalTag/Followed": "verified",
    "aws__PrincipalTag/Environments": "shared",
}  # fmt: skip


def _tagged(resources: tuple[str, ...], *actions: str, **conditions: str) -> Calls:
    return _on(resources, *actions, **_TAGS, **conditions)


_SESSION: Calls = (
    *_objects(
        "GetObject", "code/verify.tar.gz", "environments/verify", "inputs/verify", "outputs/verify",
        "runs/verify/checkpoints/verify",
    ),
    *_tagged(
        tuple(
            f"{_OBJECT}{path}"
            for path in (
                "environments/parts/verify", "environments/runs/verify/0000/verify.json",
                "environments/own/verify/parts/verify", "environments/uses/verify/2030-01-01",
                "outputs/verify", "runs/verify/verify", "runs/verify/shards/verify",
                "runs/verify/checkpoints/shards/verify",
            )
        ),
        "s3:PutObject", "s3:AbortMultipartUpload",
    ),
    *_tagged(
        (f"{_OBJECT}runs/verify/checkpoints/parts/verify",), "s3:DeleteObject"
    ),
    *_LIST,
    *_OWN_BUCKETS,
    *_on(("arn:aws:s3:::{writable}/verify",), "s3:PutObject", "s3:AbortMultipartUpload"),
    *_tagged(
        ("{table}",), "dynamodb:GetItem", "dynamodb:UpdateItem", "dynamodb:Query", **_RUN_ITEMS
    ),
    *_tagged(("{table}",), "dynamodb:GetItem", dynamodb__LeadingKeys="TOKEN#verify#0001"),
    *_tagged(
        ("{table}",), "dynamodb:GetItem", dynamodb__LeadingKeys="WARM#verify#i-0123456789abcdef0",
    ),
    *_tagged(
        ("{table}",), "dynamodb:UpdateItem",
        dynamodb__LeadingKeys="WARM#verify#i-0123456789abcdef0", dynamodb__Attributes="stage",
    ),
    *_tagged(
        ("{table}",), "dynamodb:GetItem", "dynamodb:UpdateItem",
        dynamodb__LeadingKeys="RUN#verified", dynamodb__Attributes="pins",
    ),
    *_on(
        (f"{_MACHINE}train",), "states:SendTaskSuccess", "states:SendTaskHeartbeat",
    ),
    *_tagged((f"{_STREAM}/0001-000",), "logs:CreateLogStream", "logs:PutLogEvents"),
    *_invoking("judge_trial"),
    *_PULL_IMAGES,
    *_SECRETS,
)  # fmt: skip
# setup-instance-permissions.html: what the SSM agent needs; without resource types.
_SSM_AGENT = (
    *_calls("ssm-agent", "register", "session"),
    *_on(
        ("*",), "ssmmessages:CreateControlChannel", "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint",
        "ec2messages:SendReply",
    ),
)  # fmt: skip
_TRAINER = (
    *_objects("GetObject", "runs/verify/outputs/verify"),
    *_objects("PutObject", "runs/verify/outputs/verify"),
    *_objects("AbortMultipartUpload", "runs/verify/outputs/verify"),
    *_LIST,
    *_OWN_BUCKETS,
)
_BUILDS = (
    *_objects("GetObject", "code/verify.tar.gz"),
    *_on((_STREAM,), "logs:CreateLogStream", "logs:PutLogEvents"),
    *_PULL_IMAGES,
    *_on(
        ("{images_arn}", "{cache_arn}"), *_PULL, "ecr:BatchCheckLayerAvailability",
        "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
    ),
    *_SECRETS,
)  # fmt: skip

ROLE_CALLS: Mapping[str, Calls] = {
    **{name: _function(name, calls) for name, calls in _FUNCTIONS.items()},
    **_MACHINES,
    "instances": (
        *_on(("{agent_object}",), "s3:GetObject"),
        *_invoking("issue_credentials"),
        *_SSM_AGENT,
    ),
    "sessions of runs": _SESSION,
    "sessions of trainers": _TRAINER,
    "image builds": _BUILDS,
    "fault injection": (
        *_DESCRIBE,
        *_on(
            (f"{_EC2}:instance/{{instance}}",),
            "ec2:SendSpotInstanceInterruptions",
            **{f"aws__ResourceTag/{RUN_TAG}": "verify-1"},
        ),
    ),
}

# What CloudFormation calls the roles that are not those of functions, without the hash at the end.
_LOGICAL_NAMES: Mapping[str, str] = {
    "state machine train": "TrainRole",
    "state machine sweep": "SweepMachineRole",
    "state machine process": "ProcessMachineRole",
    "instances": "InstanceRole",
    "sessions of runs": "RunRolesRunRole",
    "sessions of trainers": "RunRolesTrainerRole",
    "image builds": "ImagesRole",
    "fault injection": "FaultInjectionRole",
    # The state machine has the construct's id Train.
    "train": "TrainFunctionRole",
}
_HASH_LENGTH = 8
_BY_LOGICAL_NAME: Mapping[str, str] = {
    _LOGICAL_NAMES.get(role, "".join(word.title() for word in role.split("_")) + "Role"): role
    for role in ROLE_CALLS
}


def role_of(logical_id: str) -> str | None:
    """Return the role that a resource of a stack is; None for one that the list does not have."""
    return _BY_LOGICAL_NAME.get(logical_id[:-_HASH_LENGTH])
