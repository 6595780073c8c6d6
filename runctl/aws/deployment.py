"""What `cdk deploy` left: the one parameter that tells where everything is."""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import NotFoundError
from runctl.model.identity import DEFAULT_DEPLOYMENT


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where the parts of a deployment are; what has a default, an older one does not tell."""

    version: str
    region: str
    account: str
    bucket: str
    table: str
    state_machine_arn: str
    log_group: str
    topic_arn: str
    command_document: str
    launch_templates: Mapping[str, str]
    zones: tuple[str, ...]
    security_group: str = ""
    dead_letters: str = ""
    start_document: str = ""
    monitor_document: str = ""
    instance_policy: str = ""
    subnets: Mapping[str, str] | None = None
    own_images: tuple[str, ...] = ()
    name: str = DEFAULT_DEPLOYMENT


def read_deployment(client: Any, *, name: str = DEFAULT_DEPLOYMENT) -> Deployment:
    """Read the parameter `/NAME/deployment` with an SSM client.

    Fields that a newer deployment added are ignored. Raises NotFoundError when nothing is deployed
    in this account and region, or something too old.
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
            f"the parameter /{name}/deployment in {where} is not what `cdk deploy` leaves; deploy "
            "again"
        )
    missing = [
        field.name
        for field in fields(Deployment)
        if field.default is MISSING and field.name not in document
    ]
    if missing:
        raise NotFoundError(
            f"the deployment in {where} is too old (no {', '.join(missing)}); run `cdk deploy "
            "--all` of this version"
        )
    names = {field.name for field in fields(Deployment)}
    known = {field: value for field, value in document.items() if field in names}
    return Deployment(
        **{
            **known,
            "name": name,
            "zones": tuple(document["zones"]),
            "own_images": tuple(document.get("own_images", ())),
        }
    )


def explain_difference(deployed: str, command: str) -> str:
    """Say what to do about a deployment of another version than the command; empty for the same.

    An older one refuses what its functions do not know, such as a new field of the request.
    """
    if deployed == command:
        return ""
    is_older = _numbers(deployed) < _numbers(command)
    remedy = (
        "its functions do not know what is newer: run `cdk deploy --all` of this version"
        if is_older
        else "install the version of the deployment"
    )
    return f"the deployment is of version {deployed}, this command of {command}; {remedy}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
