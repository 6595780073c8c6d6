"""The synthesized templates, with references resolved to readable text."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stacks.check import Finding

ACCOUNT = "000000000000"
REGION = "us-east-1"
PSEUDO = {"AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws"}

OPERATORS = frozenset(
    {
        "ArnLike",
        "Bool",
        "ForAllValues:StringEquals",
        "ForAllValues:StringLike",
        "Null",
        "StringEquals",
        "StringLike",
    }
)


@dataclass(frozen=True)
class Resource:
    """A resource with resolved properties."""

    stack: str
    logical_id: str
    type: str
    properties: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Synthesized:
    """The output of a synth."""

    outdir: Path
    findings: list[Finding]

    @cached_property
    def templates(self) -> dict[str, Any]:
        suffix = ".template.json"
        return {
            path.name.removesuffix(suffix): json.loads(path.read_text())
            for path in self.outdir.glob(f"*{suffix}")
        }

    @cached_property
    def resources(self) -> list[Resource]:
        return [
            Resource(
                stack,
                logical_id,
                resource["Type"],
                self.resolve(resource.get("Properties", {}), stack),
                resource,
            )
            for stack, template in self.templates.items()
            for logical_id, resource in template["Resources"].items()
        ]

    def of_type(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type == kind]

    def one(self, kind: str, **properties: Any) -> Resource:
        """Return the only resource of a type with these properties."""
        (found,) = (
            resource
            for resource in self.of_type(kind)
            if all(resource.properties.get(name) == value for name, value in properties.items())
        )
        return found

    def resolve(self, value: Any, stack: str) -> Any:
        """Replace references: `<LogicalId>` for a Ref, `<LogicalId.Attribute>` for a GetAtt."""
        match value:
            case {"Ref": str(name), **rest} if not rest:
                return PSEUDO.get(name) or self._named(stack, name)
            case {"Fn::GetAtt": [name, "Arn"]}:
                return self._arn(stack, name)
            case {"Fn::GetAtt": [name, attribute]}:
                return f"<{name}.{attribute}>"
            case {"Fn::ImportValue": str(export)}:
                return self._imported(export)
            case {"Fn::Base64": inner}:
                return self.resolve(inner, stack)
            case {"Fn::Join": [glue, parts]}:
                return glue.join(str(self.resolve(part, stack)) for part in parts)
            case {"Fn::Select": [index, parts]} if isinstance(parts, list):
                return self.resolve(parts[int(index)], stack)
            case {"Fn::Sub": str(text)}:
                for name, known in PSEUDO.items():
                    text = text.replace(f"${{{name}}}", known)
                return text
            case dict():
                return {name: self.resolve(element, stack) for name, element in value.items()}
            case list():
                return [self.resolve(element, stack) for element in value]
            case _:
                return value

    def _named(self, stack: str, logical_id: str) -> str:
        """Return the value of a Ref: the name, or a placeholder if only a deployment knows it."""
        resource = self.templates[stack]["Resources"].get(logical_id, {})
        properties = resource.get("Properties", {})
        if resource.get("Type") == "AWS::SNS::Topic":  # a topic's Ref is its ARN
            return f"arn:aws:sns:{REGION}:{ACCOUNT}:{properties['TopicName']}"
        for name in ("TableName", "LogGroupName", "FunctionName", "Name"):
            if isinstance(properties.get(name), str):
                return str(properties[name])
        return f"<{logical_id}>"

    def _arn(self, stack: str, logical_id: str) -> str:
        kind = self.templates[stack]["Resources"][logical_id]["Type"]
        name, where = self._named(stack, logical_id), f"{REGION}:{ACCOUNT}"
        return {
            "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{where}:table/{name}",
            "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{name}",
            "AWS::Lambda::Function": f"arn:aws:lambda:{where}:function:{name}",
            "AWS::Logs::LogGroup": f"arn:aws:logs:{where}:log-group:{name}:*",
            "AWS::S3::Bucket": f"arn:aws:s3:::{name}",
            "AWS::SQS::Queue": f"arn:aws:sqs:{where}:{name}",
        }.get(kind, f"<{logical_id}.Arn>")

    def _imported(self, export: str) -> Any:
        for stack, template in self.templates.items():
            for output in template.get("Outputs", {}).values():
                if output.get("Export", {}).get("Name") == export:
                    return self.resolve(output["Value"], stack)
        raise LookupError(export)

    def function(self, name: str) -> Resource:
        return self.one("AWS::Lambda::Function", FunctionName=f"runctl-{name}")

    def role(self, role_arn: str) -> Role:
        return Role(list(self._statements(role_arn.rpartition("/")[2])))

    def _statements(self, role_name: str) -> Iterator[dict[str, Any]]:
        for policy in self.of_type("AWS::IAM::Policy"):
            if role_name in policy.properties["Roles"]:
                yield from policy.properties["PolicyDocument"]["Statement"]


@dataclass(frozen=True)
class Role:
    """The statements of a role, all of which allow."""

    statements: list[dict[str, Any]]

    @property
    def actions(self) -> set[str]:
        return {action for statement in self.statements for action in _listed(statement["Action"])}

    def allows(
        self, action: str, resource: str, context: Mapping[str, list[str]] | None = None
    ) -> bool:
        return any(
            statement["Effect"] == "Allow"
            and _matches(action, _listed(statement["Action"]))
            and _matches(resource, _listed(statement["Resource"]))
            and _holds(statement.get("Condition", {}), context or {})
            for statement in _with_tags(self.statements, context or {})
        )


def _with_tags(
    statements: list[dict[str, Any]], context: Mapping[str, list[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the statements with the tags of the caller; those about an absent tag do not match."""
    for statement in statements:
        text = json.dumps(statement)
        for name, values in context.items():
            if name.startswith("aws:PrincipalTag/"):
                text = text.replace(f"${{{name}}}", values[0])
        if "${aws:PrincipalTag/" not in text:
            yield json.loads(text)


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _matches(text: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def _holds(conditions: Mapping[str, Any], context: Mapping[str, list[str]]) -> bool:
    for operator, keys in conditions.items():
        assert operator in OPERATORS
        for key, patterns in keys.items():
            values = context.get(key, [])
            if operator == "Null":
                if (patterns == "true") == bool(values):
                    return False
                continue
            if not values and not operator.startswith("ForAllValues:"):
                return False
            if not all(_matches(value, _listed(patterns)) for value in values):
                return False
    return True
