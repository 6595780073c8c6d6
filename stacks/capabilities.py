"""The capabilities of functions: permissions and variables for each resource."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aws_cdk import Stack
from aws_cdk import aws_iam as iam

from stacks.compute import DISK_GIB, ComputeStack
from stacks.disks import customer_key
from stacks.settings import Settings
from stacks.storage import StorageStack

RUN_TAG = "runctl:run-id"
# Which deployment launched it: deployments in one account and region share the tags of runs.
DEPLOYMENT_TAG = "runctl:deployment"
# On a machine that a person requested, and that needs no run.
KEEP_ALIVE_TAG = "runctl:keep-alive-until"
# On a machine to which its owner lets runctl send commands.
EXISTING_TAG = "runctl:lent"

# Each update of a template creates a version, and `$Latest` names it. The number would be an export
# of the compute stack, which CloudFormation refuses to change while this stack imports it.
TEMPLATE_VERSION = "$Latest"

Conditions = Mapping[str, Mapping[str, str | list[str]]]


@dataclass(frozen=True, kw_only=True)
class Capability:
    """The permissions for one resource, and the variables that locate it."""

    statements: Sequence[iam.PolicyStatement] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


class Capabilities:
    """The capabilities that functions of one deployment can have."""

    def __init__(
        self, stack: Stack, *, settings: Settings, storage: StorageStack, compute: ComputeStack
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._storage = storage
        self._compute = compute

    def ledger(self, *actions: str) -> Capability:
        """Use the ledger's items; a transaction needs the permissions of its writes."""
        return Capability(
            statements=[
                _allow(
                    [f"dynamodb:{action}" for action in actions], [self._storage.table.table_arn]
                )
            ],
            variables={"RUNCTL_TABLE": self._storage.table.table_name},
        )

    def list_unsettled_runs(self) -> Capability:
        """List the unsettled runs; querying an index needs a separate permission."""
        index = f"{self._storage.table.table_arn}/index/unsettled"
        return Capability(
            statements=[_allow(["dynamodb:Query"], [index])],
            variables={"RUNCTL_TABLE": self._storage.table.table_name},
        )

    def prune_environments(self) -> Capability:
        """List, read and remove stored environments, and know how long unused ones are kept."""
        bucket = self._storage.bucket.bucket_arn
        return Capability(
            statements=[
                _allow(["s3:GetObject", "s3:DeleteObject"], [f"{bucket}/environments/*"]),
                # Also without it, S3 would answer 403 for an object that does not exist.
                _allow(["s3:ListBucket"], [bucket]),
            ],
            variables={
                **self.bucket_name().variables,
                "RUNCTL_ENVIRONMENT_DAYS": str(self._settings.environment_days),
            },
        )

    def bucket_name(self) -> Capability:
        """Build addresses of objects, without access to them."""
        return Capability(variables={"RUNCTL_BUCKET": self._storage.bucket.bucket_name})

    def objects(self) -> Capability:
        """Check that an object exists, in our bucket and those that the context names."""
        buckets = [
            self._storage.bucket.bucket_arn,
            *(f"arn:aws:s3:::{name}" for name in self._settings.readable_buckets),
        ]
        return Capability(
            statements=[
                _allow(["s3:GetObject"], [f"{bucket}/*" for bucket in buckets]),
                # Without it S3 answers 403 for an object that does not exist.
                _allow(["s3:ListBucket"], buckets),
            ],
            variables=self.bucket_name().variables,
        )

    def prepare_jobs(self) -> Capability:
        """Store the plan of a processing job, reserve its output, and check that of others."""
        bucket = self._storage.bucket.bucket_arn
        # The claim of a job, and the name with which an evaluation tries whether it could write.
        names = ("_run.json", ".runctl")
        plans = f"{bucket}/runs/*/shards/plan.jsonl"
        outputs = [f"{place}*{name}" for place in self._output_places() for name in names]
        return Capability(statements=[_allow(["s3:PutObject"], [plans, *outputs])])

    def _output_places(self) -> list[str]:
        """Return what the ARNs of all objects begin with that runs may write for their users."""
        buckets = (f"arn:aws:s3:::{name}/" for name in self._settings.writable_buckets)
        return [f"{self._storage.bucket.bucket_arn}/outputs/", *buckets]

    def finish_jobs(self) -> Capability:
        """Read what the runs of a processing job recorded, and store its index."""
        bucket = self._storage.bucket.bucket_arn
        return Capability(
            statements=[
                _allow(["s3:GetObject"], [f"{bucket}/runs/*/shards/*"]),
                _allow(
                    ["s3:PutObject"], [f"{place}*_index.jsonl" for place in self._output_places()]
                ),
                # Without it S3 answers 403 for an object that does not exist.
                _allow(["s3:ListBucket"], [bucket]),
            ],
            variables=self.bucket_name().variables,
        )

    def notices(self) -> Capability:
        """Publish to our topic; it has no key that would need a permission."""
        topic = self._storage.topic.topic_arn
        return Capability(
            statements=[_allow(["sns:Publish"], [topic])], variables={"RUNCTL_TOPIC_ARN": topic}
        )

    def machine_images(self) -> Capability:
        """Know the kinds of machines for which the owner chose the image."""
        return Capability(
            variables={"RUNCTL_OWN_IMAGES": json.dumps(list(self._settings.own_images))}
        )

    def find_images(self) -> Capability:
        """Look up images in ECR, in this account and in others that permit it."""
        images = self._storage.images
        return Capability(
            statements=[
                _allow(
                    ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                    [f"arn:aws:ecr:{self._settings.region}:*:repository/*"],
                )
            ],
            variables={"RUNCTL_IMAGE_REPOSITORY": images.repository_uri},
        )

    def find_secrets(self) -> Capability:
        """Know whether a secret exists that runs may read; not its value."""
        listed = list(self._settings.readable_secrets.secrets)
        return Capability(
            statements=[_allow(["secretsmanager:DescribeSecret"], listed)] if listed else []
        )

    def order_builds(self) -> Capability:
        """Describe the build of an image, which the state machine starts."""
        images = self._storage.images
        return Capability(
            variables={
                "RUNCTL_CACHE_REPOSITORY": images.cache_uri,
                "RUNCTL_BUILD_PROJECTS": self._stack.to_json_string(
                    {name: project.project_name for name, project in images.projects.items()}
                ),
                "RUNCTL_IMAGE_MIRROR": images.mirror,
                "RUNCTL_LOG_GROUP": self._storage.trainer_logs.log_group_name,
            }
        )

    def read_builds(self) -> Capability:
        """Read how a build ended, and its log."""
        images, group = self._storage.images, self._storage.trainer_logs.log_group_name
        region, account = self._settings.region, self._settings.account
        streams = f"arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:*"
        return Capability(
            statements=[
                _allow(
                    ["codebuild:BatchGetBuilds"],
                    [project.project_arn for project in images.projects.values()],
                ),
                _allow(["logs:GetLogEvents"], [streams]),
            ]
        )

    def root_volumes(self) -> Capability:
        """Know the root volumes of the launch templates, which a fleet's overrides replace."""
        disk = self._settings.disk
        volumes = {
            kind: {
                "device": self._settings.root_devices[kind],
                "gib": gib,
                "throughput": disk.throughput,
                "iops": disk.iops,
                "key": disk.key,
            }
            for kind, gib in DISK_GIB.items()
        }
        return Capability(variables={"RUNCTL_ROOT_VOLUMES": json.dumps(volumes)})

    def delete_images(self) -> Capability:
        """List and delete images of builds."""
        images = self._storage.images
        return Capability(
            statements=[
                _allow(
                    ["ecr:DescribeImages", "ecr:BatchDeleteImage"],
                    [images.repository.repository_arn],
                )
            ],
            variables={"RUNCTL_IMAGE_REPOSITORY": images.repository_uri},
        )

    def machines(self) -> Capability:
        """Describe any instance: Describe actions have no resource types."""
        return Capability(
            statements=[_allow(["ec2:DescribeInstances"], ["*"])], variables=self._name()
        )

    def _name(self) -> Mapping[str, str]:
        return {"RUNCTL_DEPLOYMENT": self._settings.name}

    def _own(self, tag: str) -> Conditions:
        """Return conditions that require a tag, with any value, and this deployment's name."""
        return {
            "StringLike": {f"aws:ResourceTag/{tag}": "*"},
            "StringEquals": {f"aws:ResourceTag/{DEPLOYMENT_TAG}": self._settings.name},
        }

    def machine_statuses(self) -> Capability:
        """Read the status checks of any instance."""
        return Capability(statements=[_allow(["ec2:DescribeInstanceStatus"], ["*"])])

    def all_machines(self) -> Capability:
        """Terminate this deployment's instances, which its security group identifies."""
        group = self._compute.network.security_group.security_group_id
        return Capability(
            statements=[
                _allow(
                    ["ec2:TerminateInstances"],
                    [self._ec2("instance/*")],
                    self._own(KEEP_ALIVE_TAG),
                ),
            ],
            variables={"RUNCTL_SECURITY_GROUP": group},
        )

    def delete_fleets(self) -> Capability:
        """Describe any fleet, and delete those tagged with a run of this deployment."""
        return Capability(
            statements=[
                _allow(["ec2:DescribeTags", "ec2:DescribeFleets"], ["*"]),
                _allow(
                    ["ec2:DeleteFleets"],
                    [self._ec2("fleet/*")],
                    self._own(RUN_TAG),
                ),
            ],
            variables={"RUNCTL_LAUNCH_TEMPLATES": self._launch_templates()},
        )

    def end_machines(self) -> Capability:
        """Describe any instance, and terminate those tagged with a run of this deployment."""
        return Capability(
            statements=[
                *self.machines().statements,
                _allow(
                    ["ec2:TerminateInstances"],
                    [self._ec2("instance/*")],
                    self._own(RUN_TAG),
                ),
            ],
            variables=self._name(),
        )

    def launch(self) -> Capability:
        """Launch instances from our templates, into our subnets, with our role and tags."""
        made = ["fleet", "instance", "network-interface", "spot-instances-request", "volume"]
        tagged = ["fleet", "instance", "network-interface", "spot-instances-request", "volume"]
        templates = [machine.template_id for machine in self._compute.machines.values()]
        network = self._compute.network
        subnets = {zone: subnet.subnet_id for zone, subnet in network.subnets.items()}
        region, account = self._settings.region, self._settings.account
        spot = f"arn:aws:iam::{account}:role/aws-service-role/spot.amazonaws.com/"
        statements = [
            _allow(
                ["ec2:CreateFleet", "ec2:RunInstances"],
                [
                    *(self._ec2(f"{kind}/*") for kind in made),
                    *(self._ec2(f"launch-template/{template_id}") for template_id in templates),
                    *(self._ec2(f"subnet/{subnet_id}") for subnet_id in subnets.values()),
                    self._ec2(f"security-group/{network.security_group.security_group_id}"),
                    # Images and their snapshots belong to their publishers.
                    f"arn:aws:ec2:{region}::image/*",
                    f"arn:aws:ec2:{region}::snapshot/*",
                ],
            ),
            _allow(
                ["ec2:CreateTags"],
                [self._ec2(f"{kind}/*") for kind in tagged],
                {
                    "StringEquals": {
                        "ec2:CreateAction": ["CreateFleet", "RunInstances"],
                        f"aws:RequestTag/{DEPLOYMENT_TAG}": self._settings.name,
                    }
                },
            ),
            _allow(
                ["iam:PassRole"],
                [self._compute.role.role_arn],
                {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            ),
            # An account that has never used Spot lacks this role: the first launch creates it.
            _allow(
                ["iam:CreateServiceLinkedRole"],
                [f"{spot}AWSServiceRoleForEC2Spot"],
                {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
            ),
        ]
        return Capability(
            statements=[*statements, *self._image_parameters(), *self._disk_key()],
            variables={
                **self._name(),
                "RUNCTL_SUBNETS": self._stack.to_json_string(subnets),
                "RUNCTL_LAUNCH_TEMPLATES": self._launch_templates(),
                **self.root_volumes().variables,
            },
        )

    def _image_parameters(self) -> list[iam.PolicyStatement]:
        """Let EC2 resolve the image parameters of templates, which it does as the caller."""
        names = [image for image in self._settings.images.values() if image.startswith("/")]
        region, account = self._settings.region, self._settings.account
        # Parameters that AWS publishes belong to no account.
        owners = {name: "" if name.startswith("/aws/") else account for name in names}
        parameters = [
            f"arn:aws:ssm:{region}:{owner}:parameter{name}" for name, owner in owners.items()
        ]
        return [_allow(["ssm:GetParameters"], parameters)] if parameters else []

    def _disk_key(self) -> list[iam.PolicyStatement]:
        """Let EC2 encrypt root volumes with a customer managed key, on behalf of the caller.

        Amazon EBS user guide, "Permissions for IAM principals". The key's own policy must also
        leave the decision to IAM; that of the AWS managed key does.
        """
        region = self._settings.region
        key = customer_key(self._settings.disk.key, region=region, account=self._settings.account)
        if key is None:
            return []
        conditions: dict[str, dict[str, str | list[str]]] = {
            "StringEquals": {"kms:ViaService": f"ec2.{region}.amazonaws.com"}
        }
        if key.alias:
            conditions["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": key.alias}
        return [
            _allow(
                [
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:GenerateDataKeyWithoutPlaintext",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ],
                [key.arn],
                conditions,
            ),
            _allow(
                ["kms:CreateGrant"],
                [key.arn],
                {**conditions, "Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        ]

    def quotas(self) -> Capability:
        """Read EC2's quotas and the sizes of types; these actions have no resource types."""
        reads = ["servicequotas:GetServiceQuota", "servicequotas:GetAWSDefaultServiceQuota"]
        return Capability(statements=[_allow([*reads, "ec2:DescribeInstanceTypes"], ["*"])])

    def commands(self) -> Capability:
        """Send our document, and no other, to instances of a run and existing instances."""
        document = self._settings.command_document
        return Capability(
            statements=[
                self._send(document),
                self._to_instances(
                    {f"ssm:resourceTag/{RUN_TAG}": "*"},
                    {f"ssm:resourceTag/{DEPLOYMENT_TAG}": self._settings.name},
                ),
                self._to_existing_instances(),
            ],
            variables={"RUNCTL_COMMAND_DOCUMENT": document},
        )

    def start_agents(self) -> Capability:
        """Start the agent on existing instances, and read the result."""
        document = self._settings.start_document
        return Capability(
            statements=[
                self._send(document),
                self._to_existing_instances(),
                # For the result; SSM has no resource types for it.
                _allow(["ssm:GetCommandInvocation"], ["*"]),
            ],
            variables={"RUNCTL_START_DOCUMENT": document},
        )

    def _send(self, document: str) -> iam.PolicyStatement:
        region, account = self._settings.region, self._settings.account
        return _allow(["ssm:SendCommand"], [f"arn:aws:ssm:{region}:{account}:document/{document}"])

    def _to_existing_instances(self) -> iam.PolicyStatement:
        return self._to_instances({f"ssm:resourceTag/{EXISTING_TAG}": "*"})

    def _to_instances(
        self, like: Mapping[str, str], equal: Mapping[str, str] | None = None
    ) -> iam.PolicyStatement:
        conditions = {"StringLike": like, **({"StringEquals": equal} if equal else {})}
        return _allow(["ssm:SendCommand"], [self._ec2("instance/*")], conditions)

    def reports(self) -> Capability:
        """Complete a Train task."""
        return Capability(
            statements=[_allow(["states:SendTaskSuccess"], [self._settings.state_machine_arn])]
        )

    def executions(self, *parents: str) -> Capability:
        """Check whether an execution of a run is running, or one that starts runs."""
        arns = [self._settings.machine_arn(definition) for definition in ("train", *parents)]
        executions = [f"{arn.replace(':stateMachine:', ':execution:')}:*" for arn in arns]
        return Capability(
            statements=[_allow(["states:DescribeExecution"], executions)],
            variables={"RUNCTL_STATE_MACHINE_ARN": self._settings.state_machine_arn},
        )

    def judge_function(self) -> Capability:
        """Name the function that judges trials, without invoking it."""
        return Capability(variables={"RUNCTL_JUDGE_FUNCTION": self._settings.judge_function})

    def group_files(self) -> Capability:
        """Write the results of groups of runs."""
        files = f"{self._storage.bucket.bucket_arn}/groups/*"
        return Capability(
            statements=[_allow(["s3:PutObject"], [files])], variables=self.bucket_name().variables
        )

    def _launch_templates(self) -> str:
        return self._stack.to_json_string(
            {
                kind: {"id": machine.template_id, "version": TEMPLATE_VERSION}
                for kind, machine in self._compute.machines.items()
            }
        )

    def stop_executions(self) -> Capability:
        """Stop an execution in which a run was continued."""
        executions = self._settings.state_machine_arn.replace(":stateMachine:", ":execution:")
        return Capability(statements=[_allow(["states:StopExecution"], [f"{executions}:*"])])

    def _ec2(self, resource: str) -> str:
        return f"arn:aws:ec2:{self._settings.region}:{self._settings.account}:{resource}"


def _allow(
    actions: Sequence[str], resources: Sequence[str], conditions: Conditions | None = None
) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        actions=list(actions), resources=list(resources), conditions=conditions
    )
