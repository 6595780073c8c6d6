"""The images of runs: the repositories, and the projects that build images from Dockerfiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stacks.secret_access import accept_prefixes, read_secrets
from stacks.settings import Settings
from stacks.suppressions import accept

BUILDSPEC = Path(__file__).with_name("buildspec.yaml")
# The state BuildImage waits a little longer than these together.
MAX_BUILD = Duration.hours(2)
MAX_QUEUED = Duration.hours(1)
_PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
_PUSH = [
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
]
_ANY_REPOSITORY = "arn:aws:ecr:*:*:repository/*"


def pull_images() -> list[iam.PolicyStatement]:
    """Return the permissions to pull images of any account whose repositories permit it."""
    return [
        _allow(["ecr:GetAuthorizationToken"], ["*"]),
        _allow(_PULL, [_ANY_REPOSITORY]),
    ]


class Images(Construct):
    """Two repositories and a CodeBuild project for each platform; idle, they cost nothing."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        bucket: s3.IBucket,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        self.repository = ecr.Repository(
            self,
            "Repository",
            repository_name=f"{settings.name}-images",
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,
            image_scan_on_push=True,
            # Names are fixed, and every image can be built again. No lifecycle rule: it would
            # expire by age what a run still uses. Reconciliation knows better.
            removal_policy=RemovalPolicy.DESTROY,
            empty_on_delete=True,
        )
        self.cache = ecr.Repository(
            self,
            "Cache",
            repository_name=f"{settings.name}-cache",
            image_tag_mutability=ecr.TagMutability.MUTABLE,
            # Each build replaces its cache, whose predecessor loses its tag.
            lifecycle_rules=[
                ecr.LifecycleRule(
                    description="replaced caches",
                    tag_status=ecr.TagStatus.UNTAGGED,
                    max_image_age=Duration.days(1),
                    rule_priority=1,
                ),
                ecr.LifecycleRule(
                    description="caches that no build has renewed",
                    tag_status=ecr.TagStatus.ANY,
                    max_image_age=Duration.days(30),
                    rule_priority=2,
                ),
            ],
            removal_policy=RemovalPolicy.DESTROY,
            empty_on_delete=True,
        )
        self.repository_uri, self.cache_uri = map(_address, (self.repository, self.cache))
        self.mirror = _mirror(self, settings)
        role = _role(self, settings, bucket, log_group)
        for repository in (self.repository, self.cache):
            role.add_to_policy(_allow([*_PULL, *_PUSH], [repository.repository_arn]))
        # The construct of a project would add groups of logs that no build writes to.
        fixed = role.without_policy_updates()
        platforms: Mapping[str, codebuild.IBuildImage] = {
            "linux/amd64": codebuild.LinuxBuildImage.AMAZON_LINUX_2023_5,
            "linux/arm64": codebuild.LinuxArmBuildImage.AMAZON_LINUX_2023_STANDARD_3_0,
        }
        self.projects = {
            platform: _project(self, settings, platform, image, fixed, log_group)
            for platform, image in platforms.items()
        }


def _address(repository: ecr.Repository) -> str:
    """Return the address that ECR reports; the property of the construct composes one."""
    resource = repository.node.default_child
    if not isinstance(resource, ecr.CfnRepository):
        raise TypeError(repository.node.path)
    return str(resource.attr_repository_uri)


def _project(
    scope: Construct,
    settings: Settings,
    platform: str,
    image: codebuild.IBuildImage,
    role: iam.IRole,
    log_group: logs.ILogGroup,
) -> codebuild.Project:
    architecture = platform.rpartition("/")[2]
    project = codebuild.Project(
        scope,
        architecture.capitalize(),
        project_name=f"{settings.name}-image-{architecture}",
        description=f"Builds the images of runs for {platform}",
        build_spec=codebuild.BuildSpec.from_object(yaml.safe_load(BUILDSPEC.read_text())),
        environment=codebuild.BuildEnvironment(
            build_image=image,
            compute_type=codebuild.ComputeType.LARGE,
            privileged=True,
        ),
        role=role,
        timeout=MAX_BUILD,
        queued_timeout=MAX_QUEUED,
        logging=codebuild.LoggingOptions(
            cloud_watch=codebuild.CloudWatchLoggingOptions(log_group=log_group)
        ),
        grant_report_group_permissions=False,
    )
    accept(
        project,
        {
            "AwsSolutions-CB3": "A Docker engine needs it; each build has a machine of its own.",
            "AwsSolutions-CB4": "There are no artifacts that a key would encrypt.",
        },
    )
    return project


def _role(
    scope: Construct, settings: Settings, bucket: s3.IBucket, log_group: logs.ILogGroup
) -> iam.Role:
    """Return the role of builds, which run what their Dockerfiles say."""
    role = iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal("codebuild.amazonaws.com"),
        description="The builds of images",
    )
    stack = Stack.of(scope)
    streams = f"arn:aws:logs:{stack.region}:{stack.account}:log-group"
    code = [
        f"{bucket.bucket_arn}/code/*",
        *(f"arn:aws:s3:::{name}/*" for name in settings.readable_buckets),
    ]
    statements = [
        _allow(["s3:GetObject"], code),
        _allow(
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [f"{streams}:{log_group.log_group_name}:log-stream:*"],
        ),
        *pull_images(),
        *read_secrets(settings),
    ]
    if settings.docker_hub_secret:
        cached = f"arn:aws:ecr:{stack.region}:{stack.account}:repository/{_hub_prefix(settings)}/*"
        statements.append(
            _allow(["ecr:BatchImportUpstreamImage", "ecr:CreateRepository"], [cached])
        )
    for statement in statements:
        role.add_to_policy(statement)
    accept_prefixes(role, settings)
    return role


def _mirror(scope: Construct, settings: Settings) -> str:
    """Let ECR cache images of Docker Hub, if the context has a login; return the address."""
    if not settings.docker_hub_secret:
        return ""
    ecr.CfnPullThroughCacheRule(
        scope,
        "DockerHub",
        ecr_repository_prefix=_hub_prefix(settings),
        upstream_registry="docker-hub",
        upstream_registry_url="registry-1.docker.io",
        credential_arn=settings.docker_hub_secret,
    )
    stack = Stack.of(scope)
    host = f"{stack.account}.dkr.ecr.{stack.region}.{stack.url_suffix}"
    return f"{host}/{_hub_prefix(settings)}"


def _hub_prefix(settings: Settings) -> str:
    return f"{settings.name}-docker-hub"


def _allow(actions: list[str], resources: list[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=actions, resources=resources)
