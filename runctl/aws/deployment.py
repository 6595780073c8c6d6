"""What `cdk deploy` left: the one parameter that tells where everything is."""

import json
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
    document = json.loads(answer["Parameter"]["Value"])
    missing = [
        field.name
        for field in fields(Deployment)
        if field.default is MISSING and field.name not in document
    ]
    if missing:
        raise NotFoundError(
            f"the deployment in {where} is too old (no {', '.join(missing)}); run `cdk deploy`"
        )
    names = {field.name for field in fields(Deployment)}
    known = {name: value for name, value in document.items() if name in names}
    return Deployment(**{**known, "zones": tuple(document["zones"]), "name": name})
