"""Whether instances can be launched: templates, images, dry runs, profile, keys, routes, quotas."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from runctl.control.findings import Finding
from runctl.control.ports.deployed_account import DeployedAccount
from runctl.control.verification.installed import Installed
from runctl.model.deployed import Template
from runctl.model.pool import MachineKind
from runctl.model.quota import VcpuQuota, quota_of
from runctl.policy.routes import ANYWHERE, problem_with_routes

SPOT_ROLE = "AWSServiceRoleForEC2Spot"
_RESOLVED = "resolve:ssm:"
_AWS_KEY = "alias/aws/ebs"
_DEPLOY = "run `cdk deploy --all` of this version"
# After this time AWS deprecates its own public images.
_OLD = timedelta(days=730)
# A zone may lack a type; the pools of other zones are there.
_NOT_OFFERED = frozenset({"Unsupported", "InvalidFleetConfiguration"})
_NOT_THERE = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
# A common type of each kind, to try a launch with.
_TRIED: Mapping[str, str] = {
    MachineKind.X86_CPU.value: "m5.large",
    MachineKind.ARM_CPU.value: "m6g.large",
    MachineKind.X86_GPU.value: "g4dn.xlarge",
}
_TRIED_WITH_EFA = "g4dn.8xlarge"
# A type of each class of quotas that the kind of machine can be of.
_CLASSES: Mapping[str, tuple[str, ...]] = {
    MachineKind.X86_CPU.value: ("m5.large",),
    MachineKind.ARM_CPU.value: ("m6g.large",),
    MachineKind.X86_GPU.value: ("g5.xlarge", "p4d.24xlarge"),
}
_METADATA: Mapping[str, object] = {
    "HttpEndpoint": "enabled",
    "HttpTokens": "required",
    "HttpPutResponseHopLimit": 1,
    "InstanceMetadataTags": "enabled",
}


def check_template(account: DeployedAccount, template: Template, role: str) -> list[Finding]:
    """Check the metadata service, the volume and the instance profile of a template."""
    found = []
    options = template.data.get("MetadataOptions") or {}
    wrong = [
        f"{name} is {options.get(name)}, not {value}"
        for name, value in _METADATA.items()
        if options.get(name) != value
    ]
    if wrong:
        found.append(_finding(template.template_id, f"metadata: {', '.join(wrong)}", _DEPLOY))
    if template.root_volume.get("Encrypted") is not True:
        found.append(_finding(template.template_id, "its volume is not encrypted", _DEPLOY))
    arn = str((template.data.get("IamInstanceProfile") or {}).get("Arn", ""))
    of_profile = account.profile_role(arn) if arn else None
    if of_profile != role:
        why = f"its instance profile has the role {of_profile or 'none'}, not {role}"
        found.append(_finding(template.template_id, why, _DEPLOY))
    return found


def check_image(account: DeployedAccount, template: Template, now: datetime) -> list[Finding]:
    """Check that the image of a template exists and has the template's root device."""
    name = template.image
    image_id: str | None = name
    if name.startswith(_RESOLVED):
        name = name.removeprefix(_RESOLVED)
        image_id = account.resolve_parameter(name)
        if not image_id:
            advice = "name another image in the CDK context, and deploy again"
            return [_finding(name, "the parameter does not exist in this region", advice)]
    image = account.image(image_id or "")
    if image is None or image.state != "available":
        why = f"{image_id} " + (f"is {image.state}" if image else "does not exist, or is private")
        return [_finding(name, why, "name another image in the CDK context, and deploy again")]
    found = []
    if image.deprecated_at is not None and image.deprecated_at < now:
        why = f"{image_id} has been deprecated since {image.deprecated_at:%Y-%m-%d}"
        found.append(_finding(name, why, "name a newer image in the CDK context, and deploy again"))
    elif image.made_at is not None and image.made_at < now - _OLD:
        why = f"{image_id} is {(now - image.made_at).days} days old, without any later fixes"
        found.append(_finding(name, why, "name a newer image in the CDK context, and deploy again"))
    if image.root_device != template.root_device:
        why = f"its root device is {image.root_device}, that of the template {template.root_device}"
        advice = f"name the root device {image.root_device} in the CDK context, and deploy again"
        found.append(_finding(name, why, advice))
    return found


def check_launch(
    account: DeployedAccount, template: Template, kind: str, subnet_ids: Sequence[str]
) -> list[Finding]:
    """Try a launch from a template into every subnet, as dry runs."""
    base = kind.partition(" ")[0]
    is_efa = base.endswith("_efa")
    tried = _TRIED_WITH_EFA if is_efa else _TRIED.get(base, _TRIED[MachineKind.X86_CPU.value])
    refusals = {
        f"RunInstances in {subnet_id}": account.refusal_of_instances(
            template, instance_type=tried, subnet_id=subnet_id
        )
        for subnet_id in subnet_ids
    }
    refusals["CreateFleet"] = account.refusal_of_fleet(
        template.template_id, instance_type=tried, subnet_ids=subnet_ids
    )
    return [
        _finding(kind, f"{call} of {tried}: {refused[1]} ({refused[0]})", _DEPLOY)
        for call, refused in refusals.items()
        if refused is not None and refused[0] not in _NOT_OFFERED
    ]


def check_termination(account: DeployedAccount, security_group: str) -> list[Finding]:
    """Try to terminate an instance of the deployment, if there is any, as a dry run."""
    instance_id = account.running_instance(security_group)
    refused = account.refusal_of_termination(instance_id) if instance_id else None
    # It may have ended meanwhile.
    if refused is None or refused[0] in _NOT_THERE:
        return []
    return [_finding("TerminateInstances", f"{refused[1]} ({refused[0]})", "see the error")]


def check_key(account: DeployedAccount, templates: Iterable[Template]) -> list[Finding]:
    """Check that volumes for which no key is named are encrypted with the key of AWS."""
    if all(template.root_volume.get("KmsKeyId") for template in templates):
        return []
    key = account.default_key()
    if key.endswith(_AWS_KEY):
        return []
    why = f"volumes are encrypted with {key}, on which the functions have no permission"
    advice = (
        "name the key (or alias/aws/ebs) as `ebs_kms_key` in the CDK context, and deploy again: "
        "otherwise instances are terminated as soon as they are launched"
    )
    return [_finding("default key of EBS", why, advice)]


def check_subnet(
    account: DeployedAccount, subnet_id: str, templates: Iterable[Template]
) -> list[Finding]:
    """Check that the instances of a subnet reach AWS."""
    subnet = account.subnet(subnet_id)
    public = all(
        template.interface.get("AssociatePublicIpAddress") is True for template in templates
    )
    problem = problem_with_routes(
        [
            (route.target, route.is_active)
            for route in subnet.routes
            if route.destination == ANYWHERE
        ],
        subnet.endpoints,
        has_public_address=public,
    )
    if not problem:
        return []
    advice = "add a route to an internet or NAT gateway to the subnet's route table, or endpoints"
    return [_finding(subnet_id, problem, advice)]


def quotas_of(installed: Installed) -> list[VcpuQuota]:
    """Return the quotas that the deployment's instances count against, in both markets.

    Those of the instance types that the owner allows, or else of every kind of machine.
    """
    classes = [name for kind in installed.launch_templates for name in _CLASSES.get(kind, ())]
    allowed = list(installed.instance_types)
    # A pattern such as `*` is of no class.
    if not allowed or any(quota_of(pattern, "on-demand") is None for pattern in allowed):
        allowed = classes
    found = {quota_of(name, market) for name in allowed for market in ("spot", "on-demand")}
    return sorted((quota for quota in found if quota), key=lambda quota: quota.name)


def check_quota(account: DeployedAccount, quota: VcpuQuota, region: str) -> list[Finding]:
    """Check that a quota is not zero, with which nothing of its class can be launched."""
    if account.quota(quota.code) > 0:
        return []
    advice = (
        f"request more vCPUs at {quota.console(region)}, or allow only other types "
        "(`allowed_instance_types` in the CDK context)"
    )
    why = "the quota is 0 vCPUs: the account may launch none of these instances"
    return [_finding(quota.name, why, advice)]


def check_spot_role(account: DeployedAccount, launcher: str, own_account: str) -> list[Finding]:
    """Check the service-linked role for Spot, which the account's first launch may create."""
    if account.has_role(SPOT_ROLE):
        return []
    action = "iam:CreateServiceLinkedRole"
    arn = f"arn:aws:iam::{own_account}:role/aws-service-role/spot.amazonaws.com/{SPOT_ROLE}"
    context = {"iam:AWSServiceName": ["spot.amazonaws.com"]}
    if not account.denied(launcher, [action], [arn], context):
        return []
    advice = "run `aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`"
    why = "the account lacks this role for Spot requests, and launches may not create it"
    return [_finding(SPOT_ROLE, why, advice)]


def _finding(name: str, why: str, advice: str) -> Finding:
    return Finding(name=name, why=why, advice=advice)
