"""IAM: the caller's policies, evaluated for the calls that the gateway answers."""

from __future__ import annotations

import logging
import secrets
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from ministack import app as ministack
from ministack.core import iam_evaluator, router
from ministack.services import sts

from runctl.local.core import records
from runctl.local.core.instance import Instance
from runctl.local.core.protocol import ApiError
from runctl.model.permissions import REQUIRED, Required

logger = logging.getLogger(__name__)

_CREDENTIALS_LIFETIME = timedelta(hours=6)
_RENEWED_BEFORE = timedelta(hours=1)
Headers = Sequence[tuple[bytes, bytes]]
TagsOf = Callable[[str], Mapping[str, str]]


def enforce() -> None:
    """Evaluate every caller's policies from now on, which cannot be undone."""
    ministack.AUTH = True


def count_loopback_as_tls() -> None:
    """Make `aws:SecureTransport` true: it is good practice that buckets refuse plain HTTP."""
    pin = iam_evaluator.pin_request_origin

    def pin_secure(address: str, _is_secure: bool) -> None:  # noqa: FBT001 - ministack's signature
        pin(address, True)

    ministack.pin_request_origin = pin_secure


def trust_the_guard() -> None:
    """Stop the emulator from verifying again what the guard has verified."""

    def pin_signed_request(
        _method: str, _raw_path: str, query: dict[str, Any], raw_headers: Headers, **_: Any
    ) -> None:
        authorization = next(
            (value for name, value in raw_headers if name == b"authorization"), b""
        )
        headers = {"authorization": authorization.decode("latin-1")}
        pin_caller(router.extract_access_key_id(headers, query))

    ministack.pin_signed_request = pin_signed_request


def pin_caller(access_key: str) -> None:
    """Record for the policy checks of this request that it was signed with this key."""
    iam_evaluator._signed_request.set(None)  # noqa: SLF001
    iam_evaluator._verified_key.set(access_key)  # noqa: SLF001
    iam_evaluator._anonymous.set(False)  # noqa: SLF001


def is_enforced() -> bool:
    """Return whether policies are evaluated."""
    return bool(ministack.AUTH)


def open_session(role_arn: str, name: str) -> dict[str, str]:
    """Assume a role for a function; return the session's keys as variables."""
    account, role = role_arn.split(":")[4], role_arn.rpartition("/")[2]
    session = _new_keys()
    _register(session, account=account, role=role, name=name)
    return {
        "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
        "AWS_SESSION_TOKEN": session["Token"],
    }


def _new_keys() -> dict[str, str]:
    alphabet = string.ascii_uppercase + string.digits
    return {
        "AccessKeyId": "ASIA" + "".join(secrets.choice(alphabet) for _ in range(16)),
        "SecretAccessKey": secrets.token_urlsafe(30),
        "Token": secrets.token_urlsafe(60),
    }


def _register(
    session: Mapping[str, str], *, account: str, role: str, name: str, **fields: Any
) -> None:
    about = {
        "Arn": f"arn:aws:sts::{account}:assumed-role/{role}/{name}",
        "UserId": f"{role}:{name}",
        "AccountId": account,
        "SecretAccessKey": session["SecretAccessKey"],
        "SessionToken": session["Token"],
    }
    sts.register_session(session["AccessKeyId"], about | fields)


class RoleCredentials:
    """Issues and renews the credentials of each instance's role."""

    def __init__(self) -> None:
        self._issued: dict[str, dict[str, str]] = {}
        self._expiry: dict[str, datetime] = {}

    def issue(self, instance: Instance) -> dict[str, str]:
        """Return the instance's current credentials, as its metadata shows them."""
        now = datetime.now(timezone.utc)
        known = self._issued.get(instance.instance_id)
        if known and self._expiry[instance.instance_id] - now > _RENEWED_BEFORE:
            return known
        if instance.profile is None:
            raise LookupError(f"{instance.instance_id} has no instance profile")
        expiry = now + _CREDENTIALS_LIFETIME
        credentials = {
            "Code": "Success",
            "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Type": "AWS-HMAC",
            **_new_keys(),
            "Expiration": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        _register(
            credentials,
            account=instance.account,
            role=instance.profile.role,
            name=instance.instance_id,
            Expiration=time.time() + _CREDENTIALS_LIFETIME.total_seconds(),
        )
        self._issued[instance.instance_id] = credentials
        self._expiry[instance.instance_id] = expiry
        return credentials


class Gate:
    """Checks a request against its caller's policies."""

    def __init__(self, *, service: str, access_key: str, tags_of: TagsOf) -> None:
        self._service, self._access_key, self._tags_of = service, access_key, tags_of

    def __call__(self, action: str, *, on_launch: bool = False, **facts: list[str]) -> None:
        """Raise the service's error unless every requirement of the action is met."""
        if not is_enforced():
            return
        for required in REQUIRED[self._service, action]:
            if required.on_launch == on_launch:
                for resource in resources_of(required, facts):
                    self._check(required, resource, facts)

    def _check(self, required: Required, resource: str, facts: Mapping[str, list[str]]) -> None:
        context: dict[str, Any] = {
            key: value.format(region=records.region()) for key, value in required.conditions.items()
        }
        if aliases := facts.get("key_aliases"):
            context["kms:ResourceAliases"] = aliases
        for pair in facts.get("tags", []):
            key, _, value = pair.partition("=")
            context[f"aws:RequestTag/{key}"] = value
            context.setdefault("aws:TagKeys", []).append(key)
        resource_id = resource.rpartition("/")[2]
        for key, value in self._tags_of(resource_id).items():
            context[f"aws:ResourceTag/{key}"] = value
            context[f"ec2:ResourceTag/{key}"] = value
            # SSM knows the tags of instances that are registered with it.
            if resource_id not in facts.get("unregistered", []):
                context[f"ssm:resourceTag/{key}"] = value
        if required.action == "ec2:RunInstances":
            context |= _launch_context(resource, facts)
        # list_amazonec2.html: a condition key of instances, not of what else a launch creates
        if (instance_type := facts.get("instance_type")) and ":instance/" in resource:
            context["ec2:InstanceType"] = instance_type[0]
        denied = iam_evaluator.enforce(
            self._access_key,
            required.action,
            required.action.partition(":")[0],
            records.region(),
            resource_arn=resource,
            service_context=context,
        )
        if denied is None:
            return
        if isinstance(denied, iam_evaluator.AuthError):
            raise ApiError(denied.code, denied.message, status=403)
        logger.info("denied: %s %s %s", denied.principal_arn, required.action, resource)
        raise self._refusal(denied, required, resource)

    def _refusal(self, denied: Any, required: Required, resource: str) -> ApiError:
        action = required.action
        because = (
            "with an explicit deny in an identity-based policy"
            if denied.decision == "Deny"
            else f"because no identity-based policy allows the {action} action"
        )
        told = (
            f"User: {denied.principal_arn} is not authorized to perform: {action} "
            f"on resource: {resource} {because}"
        )
        if self._service == "ec2":
            prefix = "You are not authorized to perform this operation. "
            code = required.refused_as or "UnauthorizedOperation"
            return ApiError(code, prefix + told, status=403)
        return ApiError("AccessDeniedException", told)


def _launch_context(resource: str, facts: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the condition keys of a launch: its template, and whether that names the resource.

    permissions-for-launch-templates.html and list_amazonec2.html; a launch by a fleet always has a
    template.
    """
    template = next(iter(facts.get("template", [])), None)
    if template is None:
        return {}
    where = f"arn:aws:ec2:{records.region()}:{records.account_id()}"
    replaced = resource.rpartition(":")[2].partition("/")[0] in facts.get("overridden", [])
    return {
        "ec2:LaunchTemplate": f"{where}:launch-template/{template}",
        "ec2:IsLaunchTemplateResource": "false" if replaced else "true",
    }


def resources_of(required: Required, facts: Mapping[str, list[str]]) -> Iterator[str]:
    """Fill in the templates with every combination of the facts that they name."""
    return required.on({"region": [records.region()], "account": [records.account_id()], **facts})


def caller_arn(access_key: str) -> str:
    """Return the principal behind an access key."""
    found = iam_evaluator.resolve_caller_identity(access_key)
    return str(found["userArn"]) if found else f"arn:aws:iam::{records.account_id()}:root"


def _as_evaluated(conditions: Mapping[str, str] | None) -> dict[str, Any]:
    """Return condition keys as the evaluator looks them up: their case does not matter."""
    return {key.lower(): value for key, value in (conditions or {}).items()}


def denied_to_service(
    role: str, service: str, conditions: Mapping[str, str] | None = None
) -> str | None:
    """Return why a service may not act as a role, by the role's trust policy; None if it may.

    `conditions` are the condition keys that the service sets.
    """
    if not is_enforced():
        return None
    context = iam_evaluator.EvalContext(
        principal_arn="",
        principal_type="Service",
        principal_account=role.split(":")[4],
        action="sts:AssumeRole",
        resource_arn=role,
        region=records.region(),
        service_context=_as_evaluated(conditions),
    )
    trusted = records.trust_policy(role.rpartition("/")[2])
    statements = [{**statement, "Resource": "*"} for statement in trusted]
    found = iam_evaluator.evaluate_resource_policy(
        {"Statement": statements}, context, service=service
    )
    if found.decision == "Allow":
        return None
    return f"{service} is not authorized to perform: sts:AssumeRole on {role}"


def denied_to_role(
    role: str, action: str, resource: str, conditions: Mapping[str, str] | None = None
) -> str | None:
    """Return why a service that acts as a role may not do something; None if it may.

    `conditions` are the condition keys that the service sets.
    """
    if not is_enforced():
        return None
    account = role.split(":")[4]
    name = role.rpartition("/")[2]
    policies = iam_evaluator._gather_role_policies(name, account)  # noqa: SLF001
    context = iam_evaluator.EvalContext(
        principal_arn=role,
        principal_type="AssumedRole",
        principal_account=account,
        action=action,
        resource_arn=resource,
        region=records.region(),
        service_context=_as_evaluated(conditions),
    )
    if iam_evaluator.evaluate(context, policies).decision == "Allow":
        return None
    return f"User: {role} is not authorized to perform: {action} on resource: {resource}"


def refusal_of_role(
    role: str,
    service: str,
    call: str,
    facts: Mapping[str, list[str]],
    tags: Mapping[str, str] | None = None,
) -> str | None:
    """Return why a service that acts as a role may not make a call; None if it may.

    `tags` are the condition keys of what the call is about.
    """
    for required in REQUIRED[service, call]:
        conditions = dict(tags or {}) | {
            key: value.format(**{name: values[0] for name, values in facts.items()})
            for key, value in required.conditions.items()
        }
        for resource in resources_of(required, facts):
            if refusal := denied_to_role(role, required.action, resource, conditions):
                return refusal
    return None
