# ruff: noqa: SLF001 - it extends ministack's CloudFormation
"""CloudFormation resources that ministack lacks and runctl's stacks have."""

from __future__ import annotations

import json
from typing import Any

from ministack.services import ssm as ministack_ssm
from ministack.services.cloudformation import provisioners

from runctl.local.core import catalog
from runctl.local.core.protocol import ApiError
from runctl.local.ssm.api import Ssm
from runctl.local.ssm.documents import Document


def install(ssm: Ssm) -> None:
    """Add documents and public images to CloudFormation, once."""
    _create_documents(ssm)
    _know_public_images()


def _create_documents(ssm: Ssm) -> None:
    def create(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        name = props.get("Name") or provisioners._physical_name(stack, logical_id)
        if props.get("DocumentType", "Command") != "Command":
            raise ValueError(f"{name}: the local cloud has Command documents only")
        content = props["Content"]
        if isinstance(content, str):
            content = json.loads(content)
        if content.get("schemaVersion") != "2.2" or "mainSteps" not in content:
            raise ValueError(f"{name}: a Command document has schemaVersion 2.2 and mainSteps")
        tags = {tag["Key"]: tag["Value"] for tag in props.get("Tags", [])}
        ssm.documents[name] = Document(name, content, tags)
        return name, {}

    def update(
        physical_id: str,
        _old: dict[str, Any],
        props: dict[str, Any],
        stack: str,
        logical_id: str = "",
    ) -> tuple[str, dict[str, Any]]:
        ssm.documents.pop(physical_id, None)
        return create(logical_id, props, stack)

    def delete(physical_id: str, _props: dict[str, Any]) -> None:
        ssm.documents.pop(physical_id, None)

    provisioners._RESOURCE_HANDLERS["AWS::SSM::Document"] = {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": delete,
    }


def _know_public_images() -> None:
    known = ministack_ssm._public_parameter

    def public_parameter(name: str) -> dict[str, Any] | None:
        if found := known(name):
            return dict(found)
        try:
            value = catalog.resolve_image(name)
        except ApiError:
            return None
        region = ministack_ssm.get_region()
        return {
            "Name": name,
            "Type": "String",
            "Value": value,
            "Version": 1,
            "LastModifiedDate": 1_728_518_400,
            "ARN": f"arn:aws:ssm:{region}::parameter{name}",
        }

    ministack_ssm._public_parameter = public_parameter
