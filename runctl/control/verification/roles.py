"""Whether each role of a deployment may do what the list of its calls says, by IAM's simulator."""

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from runctl.control.findings import Finding
from runctl.control.ports.deployed_account import DeployedAccount
from runctl.control.verification.installed import Installed
from runctl.control.verification.launches import SPOT_ROLE
from runctl.model.deployed import Denial, StackResource, Template
from runctl.model.identity import DEPLOYMENT_TAG, EXISTING_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.permissions import Required
from runctl.model.role_calls import ROLE_CALLS, role_of

_ROLE = "AWS::IAM::Role"
_AWS_KEY = "alias/aws/ebs"
_AGENT_URI = re.compile(r"RUNCTL_AGENT_URI='s3://(?P<path>[^']+)'")
_MAX_SHOWN = 5
_TAG = "aws:PrincipalTag/"
_REMEDY = (
    "run `cdk deploy --all` of this version; if its policies are there, a permissions boundary or "
    "an organization's policy denies it"
)
Facts = Mapping[str, Sequence[str]]


def check_role(
    account: DeployedAccount, arn: str, name: str, facts: Facts, context: Facts
) -> list[Finding]:
    """Return a finding for a role that lacks permissions."""
    denied: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for actions, resources, conditions in _grouped(ROLE_CALLS[name], facts):
        asked = {**context, **{key: [value] for key, value in conditions.items()}}
        for denial in account.denied(arn, actions, resources, asked):
            denied[denial.action, _condition(denial, conditions)][denial.resource] = None
    if not denied:
        return []
    described = [
        f"{action} on {_first_of(list(resources))}{condition}"
        for (action, condition), resources in denied.items()
    ]
    shown = described[:_MAX_SHOWN]
    more = len(described) - len(shown)
    why = "; ".join(shown) + (f"; and {more} more" if more else "")
    return [Finding(name=name, why=f"it may not {why}", advice=_REMEDY)]


def _first_of(resources: Sequence[str]) -> str:
    """Return the first resource; others, such as all launch templates, are only counted."""
    first, *others = resources
    return f"{first} and {len(others)} more" if others else first


def _condition(denial: Denial, conditions: Mapping[str, str]) -> str:
    """Return under which condition something was denied, and why, as far as that helps."""
    # Which items of a table, for example; the tags of a session say nothing that helps.
    asked = [f"{key}: {value}" for key, value in conditions.items() if _TAG not in key]
    text = f" with {', '.join(asked)}" if asked else ""
    if denial.decision == "explicitDeny":
        text += " (a policy denies it)"
    elif denial.missing:
        text += f" (conditions need {', '.join(denial.missing)})"
    return text


def _grouped(
    calls: Iterable[Required], facts: Facts
) -> Iterator[tuple[list[str], list[str], Mapping[str, str]]]:
    """Put requirements on the same resources and conditions together: each is one request."""
    groups: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], dict[str, None]]
    groups = defaultdict(dict)
    region = facts["region"][0]
    for required in calls:
        conditions = tuple(
            (key, value.format(region=region)) for key, value in required.conditions.items()
        )
        if resources := tuple(dict.fromkeys(required.on(facts))):
            groups[resources, conditions][required.action] = None
    for (resources, conditions), actions in groups.items():
        yield list(actions), list(resources), dict(conditions)


def roles_in(resources: Iterable[StackResource]) -> dict[str, str]:
    """Return the names of the deployment's roles, by what the list calls them."""
    return {
        role_of(resource.logical_id) or resource.logical_id: resource.physical_id
        for resource in resources
        if resource.kind == _ROLE
    }


def check_list(roles: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each role that the list or the stacks lack."""
    found = [
        Finding(name=name, why="the stacks lack this role", advice="run `cdk deploy --all` again")
        for name in ROLE_CALLS
        if name not in roles
    ]
    found += [
        Finding(
            name=name,
            why="this version does not know what the role is for",
            advice="install the version of the deployment",
        )
        for name in roles
        if name not in ROLE_CALLS
    ]
    return found


def context_of(installed: Installed, key: str) -> dict[str, list[str]]:
    """Return the context in which permissions on tagged resources apply: those of a run.

    `key` is that of volumes, which a policy may name by its alias.
    """
    tags = {
        RUN_TAG: "verify",
        DEPLOYMENT_TAG: installed.name,
        KEEP_ALIVE_TAG: "2000-01-01T00:00:00Z",
        EXISTING_TAG: f"deployment={installed.name} until=2000-01-01T00:00:00Z",
    }
    prefixes = ("aws:ResourceTag", "ec2:ResourceTag", "ssm:resourceTag", "aws:RequestTag")
    tagged = {f"{prefix}/{key}": [tag] for prefix in prefixes for key, tag in tags.items()}
    return {
        **tagged,
        "aws:TagKeys": [RUN_TAG, DEPLOYMENT_TAG],
        # What a launch says about its template.
        "ec2:LaunchTemplate": [
            f"arn:aws:ec2:{installed.region}:{installed.account}:launch-template/{template_id}"
            for template_id in list(installed.launch_templates.values())[:1]
        ],
        "ec2:IsLaunchTemplateResource": ["true"],
        **({"kms:ResourceAliases": [key[key.index("alias/") :]]} if "alias/" in key else {}),
        "ec2:InstanceType": [
            next(iter(installed.instance_types), "m5.large").replace("*", "large")
        ],
    }


def facts_of(
    installed: Installed,
    resources: Sequence[StackResource],
    templates: Sequence[Template],
    key: str,
) -> Facts:
    """Return the values of the facts that the list of calls names; `key` is that of volumes."""
    roles = roles_in(resources)
    where = f"{installed.region}:{installed.account}"

    def named(kind: str, prefix: str = "") -> list[str]:
        return [
            found.physical_id.rpartition("/")[2]
            for found in resources
            if found.kind == kind and found.logical_id.startswith(prefix)
        ]

    def role(name: str) -> list[str]:
        return [role_arn(installed, roles[name])] if name in roles else []

    return {
        "region": [installed.region],
        "account": [installed.account],
        "name": [installed.name],
        "bucket": [installed.bucket],
        "table": [f"arn:aws:dynamodb:{where}:table/{installed.table}"],
        "log_group": [installed.log_group],
        "topic": [installed.topic_arn],
        "images_arn": _repositories(where, named("AWS::ECR::Repository", "ImagesRepository")),
        "cache_arn": _repositories(where, named("AWS::ECR::Repository", "ImagesCache")),
        "project": [
            f"arn:aws:codebuild:{where}:project/{name}" for name in named("AWS::CodeBuild::Project")
        ],
        "dead_letters": [
            f"arn:aws:sqs:{where}:{url.rpartition('/')[2]}"
            for url in [installed.dead_letters]
            if url
        ],
        "command_document": [installed.command_document],
        "start_document": [installed.start_document],
        "template": [template.template_id for template in templates],
        "subnet": list(installed.subnets.values()),
        "group": sorted({group for found in templates for group in _groups(found)}),
        "placement_group": named("AWS::EC2::PlacementGroup"),
        "image": ["ami-0123456789abcdef0"],
        "parameter": sorted({name for found in templates for name in _public_parameter(found)}),
        "instance": ["i-0123456789abcdef0"],
        "fleet": ["fleet-12345678-1234-1234-1234-123456789012"],
        "tagged": ["fleet", "instance", "volume"],
        "spot_request": ["spot-instances-request"],
        "missing_role": [SPOT_ROLE],
        "role": role("instances"),
        "run_role": role("sessions of runs"),
        "trainer_role": role("sessions of trainers"),
        "readable": list(installed.readable_buckets),
        "writable": list(installed.writable_buckets),
        "secret": [_example(arn) for arn in installed.secrets],
        "secret_parameter": [_example(arn) for arn in installed.parameters],
        "secret_key": list(installed.secret_keys),
        "agent_object": sorted({uri for found in templates for uri in _agent_object(found)}),
        "key": [_key_arn(key, where)] if key else [],
    }


def _example(pattern: str) -> str:
    """Return an ARN that a pattern matches: that of a secret ends in six characters."""
    return pattern.replace("*", "verify-aaaaaa").replace("?", "a")


def _key_arn(key: str, where: str) -> str:
    """Return the ARN of a key; an alias stands for any key, which its condition narrows."""
    if key.startswith("arn:") and ":key/" in key:
        return key
    return f"arn:aws:kms:{where}:key/{'verify' if 'alias/' in key else key}"


def role_arn(installed: Installed, name: str) -> str:
    """Return the ARN of a role of the deployment."""
    return f"arn:aws:iam::{installed.account}:role/{name}"


def _repositories(where: str, names: Iterable[str]) -> list[str]:
    return [f"arn:aws:ecr:{where}:repository/{name}" for name in names]


def _groups(template: Template) -> list[str]:
    return list(template.interface.get("Groups") or [])


def _public_parameter(template: Template) -> list[str]:
    name = template.image.removeprefix("resolve:ssm:")
    return [name] if name.startswith("/aws/") else []


def _agent_object(template: Template) -> list[str]:
    text = base64.b64decode(str(template.data.get("UserData", ""))).decode(errors="replace")
    match = _AGENT_URI.search(text)
    return [f"arn:aws:s3:::{match['path']}"] if match else []


def customer_key(templates: Iterable[Template]) -> str:
    """Return the customer managed key that templates name for their volumes; empty without one."""
    for template in templates:
        key = str(template.root_volume.get("KmsKeyId", ""))
        if key and not key.endswith(_AWS_KEY):
            return key
    return ""
