"""The deployment: the names of its parts, read from the parameter that `cdk deploy` writes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import NotFoundError
from runctl.model.identity import DEFAULT_DEPLOYMENT

# The fields that every deployment has had since the first version.
REQUIRED = (
    "version",
    "region",
    "account",
    "bucket",
    "table",
    "state_machine_arn",
    "log_group",
    "topic_arn",
    "command_document",
    "launch_templates",
    "zones",
)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The names and addresses of the parts of a deployment.

    A field is empty if the deployment is too old to have it, or the program need not know it.
    `template_versions` are those of the launch templates, by kind of machine; the newest otherwise.
    `root_volumes` describes their root volumes. `gang_templates` are those for nodes that train
    together, by kind of machine, with `_efa` for an Elastic Fabric Adapter, and `placement_groups`
    the cluster placement groups by zone. `limits` are those that its owner has set,
    and `own_data` the buckets, secrets, parameters and keys of the owner that runs may use.
    `instance_role`, `run_role`, `trainer_role` and `fault_injection_role` are ARNs, and `endpoint`
    is that of all services if it is not AWS.
    """

    version: str = ""
    region: str = ""
    account: str = ""
    bucket: str = ""
    table: str = ""
    state_machine_arn: str = ""
    sweep_machine_arn: str = ""
    process_machine_arn: str = ""
    judge_function: str = ""
    log_group: str = ""
    topic_arn: str = ""
    command_document: str = ""
    launch_templates: Mapping[str, str] = field(default_factory=dict)
    template_versions: Mapping[str, str] = field(default_factory=dict)
    gang_templates: Mapping[str, str] = field(default_factory=dict)
    placement_groups: Mapping[str, str] = field(default_factory=dict)
    zones: tuple[str, ...] = ()
    security_group: str = ""
    dead_letters: str = ""
    start_document: str = ""
    monitor_document: str = ""
    instance_policy: str = ""
    subnets: Mapping[str, str] | None = None
    own_images: tuple[str, ...] = ()
    image_repository: str = ""
    cache_repository: str = ""
    build_projects: Mapping[str, str] = field(default_factory=dict)
    image_mirror: str = ""
    root_volumes: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    own_data: Mapping[str, Any] = field(default_factory=dict)
    environment_days: int = 30
    instance_role: str = ""
    run_role: str = ""
    trainer_role: str = ""
    fault_injection_role: str = ""
    endpoint: str = ""
    name: str = DEFAULT_DEPLOYMENT


def read_deployment(client: Any, *, name: str = DEFAULT_DEPLOYMENT) -> Deployment:
    """Read the parameter `/NAME/deployment` with an SSM client.

    Fields that a newer deployment added are ignored. Raises NotFoundError if nothing is deployed in
    this account and region, or a version that is too old.
    """
    parameter = f"/{name}/deployment"
    where = client.meta.region_name
    with translated():
        try:
            answer = client.get_parameter(Name=parameter)
        except ClientError as exc:
            if code_of(exc) == "ParameterNotFound":
                raise NotFoundError(
                    f"nothing is deployed in {where} ({parameter} is missing); run `cdk deploy`, "
                    "or name the right --region and --profile"
                ) from exc
            raise
    return _read(answer["Parameter"]["Value"], name=name, where=where)


def _read(text: str, *, name: str, where: str) -> Deployment:
    """Read the document leniently: a newer deployment has more fields, an older one fewer."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NotFoundError(
            f"the parameter /{name}/deployment in {where} was not written by `cdk deploy`; deploy "
            "again"
        )
    if missing := [name for name in REQUIRED if name not in document]:
        raise NotFoundError(
            f"the deployment in {where} is too old (no {', '.join(missing)}); run `cdk deploy "
            "--all` of this version"
        )
    names = {member.name for member in fields(Deployment)}
    known = {key: value for key, value in document.items() if key in names}
    return Deployment(
        **{
            **known,
            "name": name,
            "zones": tuple(document["zones"]),
            "own_images": tuple(document.get("own_images", ())),
        }
    )


def explain_difference(deployed: str, command: str) -> str:
    """Return the remedy for a deployment of another version than the command; empty if equal.

    An older one refuses what its functions do not know, such as a new field of the request.
    """
    if deployed == command:
        return ""
    is_older = _numbers(deployed) < _numbers(command)
    remedy = (
        "its functions do not know newer fields: run `cdk deploy --all` of this version"
        if is_older
        else "install the version of the deployment"
    )
    return f"the deployment has version {deployed}, this command {command}; {remedy}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
