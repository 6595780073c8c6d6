"""The logger, the metrics and the services that all functions share."""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

from aws_lambda_powertools import Logger, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from runctl.aws.clients import Clients
from runctl.aws.deployment import Deployment
from runctl.aws.services import AwsServices
from runctl.control.ports.access import AccessServices
from runctl.control.ports.sweeps import SweepServices

NAMESPACE = "runctl"

Document = dict[str, Any]

logger = Logger()


class AllServices(SweepServices, AccessServices, Protocol):
    """The services of all functions."""


def deployment_of(environ: Mapping[str, str]) -> Deployment:
    """Return what a function knows of its deployment: the variables that its stack has set.

    A function that does not use a service has neither its variables nor its permissions.
    """
    templates = json.loads(environ.get("RUNCTL_LAUNCH_TEMPLATES", "{}"))
    return Deployment(
        name=environ.get("RUNCTL_DEPLOYMENT", ""),
        bucket=environ.get("RUNCTL_BUCKET", ""),
        table=environ.get("RUNCTL_TABLE", ""),
        state_machine_arn=environ.get("RUNCTL_STATE_MACHINE_ARN", ""),
        judge_function=environ.get("RUNCTL_JUDGE_FUNCTION", ""),
        topic_arn=environ.get("RUNCTL_TOPIC_ARN", ""),
        command_document=environ.get("RUNCTL_COMMAND_DOCUMENT", ""),
        start_document=environ.get("RUNCTL_START_DOCUMENT", ""),
        security_group=environ.get("RUNCTL_SECURITY_GROUP", ""),
        subnets=json.loads(environ.get("RUNCTL_SUBNETS", "{}")),
        launch_templates={kind: template["id"] for kind, template in templates.items()},
        template_versions={kind: template["version"] for kind, template in templates.items()},
        gang_templates=json.loads(environ.get("RUNCTL_GANG_TEMPLATES", "{}")),
        placement_groups=json.loads(environ.get("RUNCTL_PLACEMENT_GROUPS", "{}")),
        log_group=environ.get("RUNCTL_LOG_GROUP", ""),
        image_repository=environ.get("RUNCTL_IMAGE_REPOSITORY", ""),
        cache_repository=environ.get("RUNCTL_CACHE_REPOSITORY", ""),
        build_projects=json.loads(environ.get("RUNCTL_BUILD_PROJECTS", "{}")),
        region=environ.get("AWS_REGION", ""),
        image_mirror=environ.get("RUNCTL_IMAGE_MIRROR", ""),
        root_volumes=json.loads(environ.get("RUNCTL_ROOT_VOLUMES", "{}")),
        limits=json.loads(environ.get("RUNCTL_LIMITS", "{}")),
        own_images=tuple(json.loads(environ.get("RUNCTL_OWN_IMAGES", "[]"))),
        instance_role=environ.get("RUNCTL_INSTANCE_ROLE", ""),
        run_role=environ.get("RUNCTL_RUN_ROLE", ""),
        trainer_role=environ.get("RUNCTL_TRAINER_ROLE", ""),
        endpoint=environ.get("AWS_ENDPOINT_URL", ""),
    )


@functools.cache
def services() -> AllServices:
    """Return the services of this execution environment; the next invocation reuses them."""
    return AwsServices(Clients(), deployment_of(os.environ))


def count(name: str, value: int = 1, **dimensions: str) -> None:
    """Publish a count as a log line in the embedded metric format, which needs no API call."""
    with single_metric(
        name=name, unit=MetricUnit.Count, value=value, namespace=NAMESPACE
    ) as metric:
        for dimension, text in dimensions.items():
            metric.add_dimension(name=dimension, value=text)
