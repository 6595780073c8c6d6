"""The roles whose sessions runs get: each session is limited to one run by its tags.

Only the function that issues credentials may assume them. It sets the tags `RunId`, `Attempt`,
`Group`, `Instance`, `Followed` and `Environments`, which the policy refers to, and a session policy
that takes away what other requests name. A statement about a tag that a session does not have
permits nothing.
"""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.capabilities.base import Capability, Conditions, allow
from stacks.images import pull_images
from stacks.instance_role import function_arn
from stacks.secret_access import accept_prefixes, read_secrets
from stacks.settings import Settings
from stacks.storage import StorageStack

# The prefixes of the deployment's bucket that agents read, where their session policies permit it.
READ = ("code", "environments", "inputs", "outputs", "runs")
RUN, ATTEMPT = "${aws:PrincipalTag/RunId}", "${aws:PrincipalTag/Attempt}"
INSTANCE = "${aws:PrincipalTag/Instance}"
GROUP, FOLLOWED = "${aws:PrincipalTag/Group}", "${aws:PrincipalTag/Followed}"
# What agents may name in an update of the items of their run. What decides about permissions is not
# among it: the request, the group, the execution, and the end of run and attempt.
WRITABLE_ATTRIBUTES = (
    "pk", "sk", "run_id", "number", "rank", "stage", "timeline", "fence",
    # the run: its checkpoints and results
    "save", "newest", "newest_bytes", "committed_at", "step", "best_step", "progressed_attempt",
    "suspects", "proven", "evaluated_save", "metrics", "mlflow_run", "image",
    # the node: what its agent reports
    "heartbeat_at", "noticed_at", "phase", "resume_step", "resume_save", "progress_step",
    "not_finite", "saving", "staging", "service", "environment_bytes", "shards", "gang", "warning",
)  # fmt: skip
# What an agent says in the offer of its instance; for how long it waits is not its decision.
OFFER_ATTRIBUTES = (
    "pk", "sk", "group_id", "instance_id", "run_id", "number", "rank", "disk_bytes", "stage",
    "left_at",
)  # fmt: skip
# How a run keeps the checkpoints of another one that it evaluates, without reading its item.
PIN_ATTRIBUTES = ("pk", "sk", "pins")


class RunRoles(Construct):
    """The roles of agents and of trainers that request credentials."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        storage: StorageStack,
        issuer: iam.Role,
    ) -> None:
        super().__init__(scope, construct_id)
        self.run = _run_role(self, settings, storage, issuer)
        self.trainer = _trainer_role(self, settings, storage, issuer)

    def sessions(self) -> Capability:
        """Open sessions of the two roles, those of runs with tags."""
        return Capability(
            statements=[
                allow(["sts:AssumeRole", "sts:TagSession"], [self.run.role_arn]),
                allow(["sts:AssumeRole"], [self.trainer.role_arn]),
            ],
            variables={
                "RUNCTL_RUN_ROLE": self.run.role_arn,
                "RUNCTL_TRAINER_ROLE": self.trainer.role_arn,
            },
        )


def _run_role(
    scope: Construct, settings: Settings, storage: StorageStack, issuer: iam.Role
) -> iam.Role:
    role = iam.Role(
        scope,
        "RunRole",
        assumed_by=iam.ArnPrincipal(issuer.role_arn).with_session_tags(),
        description="The agent of a runctl run, for one attempt",
    )
    for statement in (
        *_objects(settings, storage),
        *_items(storage),
        # Only sessions of the attempt can read its token, and no other token is accepted.
        allow(
            ["states:SendTaskSuccess", "states:SendTaskHeartbeat"],
            [settings.state_machine_arn],
        ),
        allow(
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [_log_streams(scope, storage.trainer_logs.log_group_name)],
        ),
        # For trials of sweeps that are pruned.
        allow(["lambda:InvokeFunction"], [function_arn(settings, settings.judge_function)]),
        *pull_images(),
        *read_secrets(settings),
    ):
        role.add_to_policy(statement)
    accept_prefixes(role, settings)
    return role


def _objects(settings: Settings, storage: StorageStack) -> list[iam.PolicyStatement]:
    bucket = storage.bucket.bucket_arn
    readable = [f"arn:aws:s3:::{name}" for name in settings.readable_buckets]
    shared = ("parts", "manifests", "current")
    jobs = [f"{bucket}/runs/{GROUP}/{kind}shards/*" for kind in ("", "checkpoints/")]
    return [
        # The session policy leaves what the request names.
        allow(
            ["s3:GetObject"],
            [*(f"{bucket}/{prefix}/*" for prefix in READ), *(f"{arn}/*" for arn in readable)],
        ),
        allow(
            ["s3:PutObject", "s3:AbortMultipartUpload"],
            [
                f"{bucket}/runs/{RUN}/*",
                # Which environment a run uses is recorded by that run only.
                f"{bucket}/environments/runs/{RUN}/*",
                # The days on which an environment was used: nobody reads what such an object has.
                f"{bucket}/environments/uses/*",
                f"{bucket}/environments/own/{RUN}/*",
                f"{bucket}/outputs/*",
                *(f"arn:aws:s3:::{name}/*" for name in settings.writable_buckets),
            ],
        ),
        # What other runs execute. Runs whose agents somebody else may control lack the tag.
        _named(
            "StoreSharedEnvironments",
            ["s3:PutObject", "s3:AbortMultipartUpload"],
            [f"{bucket}/environments/{kind}/*" for kind in shared],
            {"StringEquals": {"aws:PrincipalTag/Environments": "shared"}},
        ),
        _named(
            "StoreEnvironmentsOfGroup",
            ["s3:PutObject", "s3:AbortMultipartUpload"],
            [f"{bucket}/environments/own/{GROUP}/*"],
        ),
        _named("WriteShardsOfJob", ["s3:PutObject", "s3:AbortMultipartUpload"], jobs),
        # Retention: parts and manifests of checkpoints, never code, outputs or logs.
        allow(["s3:DeleteObject"], [f"{bucket}/runs/{RUN}/checkpoints/*"]),
        _named("DeleteCheckpointsOfShardsOfJob", ["s3:DeleteObject"], jobs[1:]),
        allow(["s3:ListBucket"], [bucket, *readable]),
    ]


def _items(storage: StorageStack) -> list[iam.PolicyStatement]:
    table = storage.table.table_arn

    def of(
        sid: str, actions: list[str], key: str, attributes: tuple[str, ...] = ()
    ) -> iam.PolicyStatement:
        keys: dict[str, str | list[str]] = {"dynamodb:LeadingKeys": [key]}
        if attributes:
            keys["dynamodb:Attributes"] = list(attributes)
        # A request without the key would fulfill the first condition.
        conditions: Conditions = {
            "ForAllValues:StringEquals": keys,
            "Null": {"dynamodb:LeadingKeys": "false"},
        }
        named = [f"dynamodb:{action}" for action in actions]
        return _named(sid, named, [table], conditions)

    return [
        of("ReadRun", ["GetItem", "Query"], f"RUN#{RUN}"),
        # Written by functions only: an earlier attempt must not report for a later one.
        of("ReadToken", ["GetItem"], f"TOKEN#{RUN}#{ATTEMPT}"),
        of("WriteRun", ["UpdateItem"], f"RUN#{RUN}", WRITABLE_ATTRIBUTES),
        of("WaitForGroup", ["GetItem"], f"WARM#{GROUP}#{INSTANCE}"),
        of("OfferInstance", ["UpdateItem"], f"WARM#{GROUP}#{INSTANCE}", OFFER_ATTRIBUTES),
        of("FollowRun", ["GetItem"], f"RUN#{FOLLOWED}"),
        of("PinCheckpoints", ["UpdateItem"], f"RUN#{FOLLOWED}", PIN_ATTRIBUTES),
    ]


def _named(
    sid: str, actions: list[str], resources: list[str], conditions: Conditions | None = None
) -> iam.PolicyStatement:
    """Return a statement that the CDK joins with no other one.

    A session without one of the tags matches no statement that refers to it.
    """
    return iam.PolicyStatement(sid=sid, actions=actions, resources=resources, conditions=conditions)


def _trainer_role(
    scope: Construct, settings: Settings, storage: StorageStack, issuer: iam.Role
) -> iam.Role:
    role = iam.Role(
        scope,
        "TrainerRole",
        assumed_by=iam.ArnPrincipal(issuer.role_arn),
        description="The trainer of a runctl run that requests credentials",
    )
    bucket = storage.bucket.bucket_arn
    buckets = [f"arn:aws:s3:::{name}" for name in settings.readable_buckets]
    for statement in (
        allow(["s3:GetObject"], [f"{bucket}/runs/*", *(f"{arn}/*" for arn in buckets)]),
        allow(["s3:PutObject", "s3:AbortMultipartUpload"], [f"{bucket}/runs/*/outputs/*"]),
        allow(["s3:ListBucket"], [bucket, *buckets]),
    ):
        role.add_to_policy(statement)
    return role


def _log_streams(scope: Construct, group: str) -> str:
    stack = Stack.of(scope)
    return f"arn:aws:logs:{stack.region}:{stack.account}:log-group:{group}:log-stream:{RUN}/*"
