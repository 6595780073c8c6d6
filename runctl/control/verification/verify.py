"""The checks of a deployment in its account, each about one subject, and what came of them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from typing import TypeVar

from runctl.control.findings import Finding, say
from runctl.control.ports.deployed_account import DeployedAccount
from runctl.control.verification import launches, own_data, roles
from runctl.control.verification.installed import Installed
from runctl.control.verification.workflows import walk_states
from runctl.model.deployed import StackResource, Template
from runctl.model.errors import RefusedError, TransientError
from runctl.model.role_calls import ROLE_CALLS

logger = logging.getLogger(__name__)

_AT_ONCE = 8
_LOG_GROUP = "AWS::Logs::LogGroup"
_LAUNCHER = "launch_instances"
# The roles that use the owner's buckets for a run.
_READERS = ("sessions of runs", "sessions of trainers", "prepare_run")
_DEPLOY = "run `cdk deploy --all` of this version"
_Found = TypeVar("_Found")


class State(str, Enum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # AWS did not let us look: neither passed nor failed


@dataclass(frozen=True)
class Subject:
    """Something to check; `examine` returns what is wrong with it."""

    check: str
    name: str
    examine: Callable[[], list[Finding]]


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What came of a check of a subject; `problem` says why it could not be checked."""

    check: str
    name: str
    findings: tuple[Finding, ...] = ()
    problem: str = ""

    @property
    def state(self) -> State:
        """Whether it passed."""
        if self.findings:
            return State.FAILED
        return State.UNKNOWN if self.problem else State.PASSED


class Verification:
    """The checks of a deployment, several of which run at once."""

    def __init__(self, account: DeployedAccount, installed: Installed, now: datetime) -> None:
        self._account, self._installed, self._now = account, installed, now

    def run(self, progress: Callable[[str], None]) -> list[Verified]:
        """Check everything and return the results in order; one failure hides no other check."""
        progress("reading the stacks and the launch templates")
        results: list[Verified] = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            stacks = pool.submit(self._account.resources)
            reading = {
                name: pool.submit(self._account.template, template_id)
                for name, template_id in self._installed.templates().items()
            }
            resources = _result("stacks", self._installed.name, stacks, results) or []
            templates = {
                name: found
                for name, future in reading.items()
                if (found := _result("launch templates", name, future, results)) is not None
            }
            subjects = list(self._subjects(templates, resources))
            futures = [pool.submit(subject.examine) for subject in subjects]
            for number, (subject, future) in enumerate(zip(subjects, futures, strict=True)):
                progress(f"{subject.check} ({number} of {len(subjects)} checks are done)")
                wrong = _result(subject.check, subject.name, future, results)
                if wrong is not None:
                    results.append(
                        Verified(check=subject.check, name=subject.name, findings=tuple(wrong))
                    )
        return results

    def _subjects(
        self, templates: Mapping[str, Template], resources: Sequence[StackResource]
    ) -> Iterator[Subject]:
        named = roles.roles_in(resources)
        for name, arn in self._installed.machines.items():
            yield Subject("states", name, partial(self._check_machine, arn))
        if resources:
            yield from self._role_subjects(named, list(templates.values()), resources)
        yield from self._launch_subjects(templates, named)
        yield from self._account_subjects(list(templates.values()), named)
        yield from self._own_subjects(named)
        bucket = self._installed.bucket
        yield Subject("storage", bucket, partial(self._check_bucket, bucket))
        groups = [found.physical_id for found in resources if found.kind == _LOG_GROUP]
        for group in groups or [self._installed.log_group]:
            yield Subject("logs", group, partial(self._check_group, group))

    def _role_subjects(
        self,
        named: Mapping[str, str],
        templates: Sequence[Template],
        resources: Sequence[StackResource],
    ) -> Iterator[Subject]:
        installed, key = self._installed, roles.customer_key(templates)
        facts = roles.facts_of(installed, resources, templates, key)
        context = roles.context_of(installed, key)
        yield Subject("roles", "list", partial(roles.check_list, named))
        for name, physical in named.items():
            if name in ROLE_CALLS:
                arn = roles.role_arn(installed, physical)
                check = partial(roles.check_role, self._account, arn, name, facts, context)
                yield Subject("roles", name, check)

    def _launch_subjects(
        self, templates: Mapping[str, Template], named: Mapping[str, str]
    ) -> Iterator[Subject]:
        account, subnets = self._account, list(self._installed.subnets.values())
        group = self._installed.security_group
        for name, template in templates.items():
            if role := named.get("instances"):
                check = partial(launches.check_template, account, template, role)
                yield Subject("launch templates", name, check)
            launch = partial(launches.check_launch, account, template, name, subnets)
            yield Subject("dry runs", name, launch)
        yield Subject(
            "dry runs", "TerminateInstances", partial(launches.check_termination, account, group)
        )
        for template in {found.image: found for found in templates.values()}.values():
            image = partial(launches.check_image, account, template, self._now)
            yield Subject("images", template.image.removeprefix("resolve:ssm:"), image)
        every = list(templates.values())
        # Whether a route can be used depends on the addresses that the templates give.
        for subnet_id in subnets if every else ():
            yield Subject(
                "routes", subnet_id, partial(launches.check_subnet, account, subnet_id, every)
            )

    def _account_subjects(
        self, templates: Sequence[Template], named: Mapping[str, str]
    ) -> Iterator[Subject]:
        account, installed = self._account, self._installed
        for quota in launches.quotas_of(installed):
            check = partial(launches.check_quota, account, quota, installed.region)
            yield Subject("quotas", quota.name, check)
        if templates:
            key = partial(launches.check_key, account, templates)
            yield Subject("account", "default key of EBS", key)
        if _LAUNCHER in named:
            launcher = roles.role_arn(installed, named[_LAUNCHER])
            spot = partial(launches.check_spot_role, account, launcher, installed.account)
            yield Subject("account", launches.SPOT_ROLE, spot)

    def _own_subjects(self, named: Mapping[str, str]) -> Iterator[Subject]:
        """Yield what the owner lists; of a pattern nothing need exist."""
        account, installed = self._account, self._installed
        readers = {
            name: roles.role_arn(installed, named[name]) for name in _READERS if name in named
        }
        for bucket in installed.readable_buckets:
            check = partial(own_data.check_own_bucket, account, bucket, installed, readers)
            yield Subject("own buckets", bucket, check)
        keys = installed.secret_keys
        for arn in installed.secrets:
            if not _is_pattern(arn.removesuffix("-??????")):
                yield Subject("secrets", arn, partial(own_data.check_secret, account, arn, keys))
        for arn in installed.parameters:
            if not _is_pattern(arn):
                found = partial(own_data.check_parameter, account, arn, keys)
                yield Subject("secrets", arn, found)
        for arn in keys:
            yield Subject("secrets", arn, partial(own_data.check_key, account, arn))

    def _check_machine(self, arn: str) -> list[Finding]:
        machine = self._account.state_machine(arn)
        prefix = f"{self._installed.name}-"
        return walk_states(machine, prefix=prefix, test=self._account.test_state).findings

    def _check_bucket(self, bucket: str) -> list[Finding]:
        missing = self._account.public_access(bucket)
        why = f"its public access block lacks {', '.join(missing)}"
        return [Finding(name=bucket, why=why, advice=_DEPLOY)] if missing else []

    def _check_group(self, group: str) -> list[Finding]:
        if self._account.has_log_group(group):
            return []
        return [Finding(name=group, why="the log group does not exist", advice=_DEPLOY)]


def _is_pattern(arn: str) -> bool:
    return "*" in arn or "?" in arn


def _result(
    check: str, name: str, future: Future[_Found], results: list[Verified]
) -> _Found | None:
    """Return what was found; None, and a result that says why, if it could not be."""
    try:
        return future.result()
    except (RefusedError, TransientError) as exc:
        results.append(Verified(check=check, name=name, problem=say(exc)))
    except Exception as exc:
        logger.debug("%s of %s failed", check, name, exc_info=True)
        finding = Finding(name=name, why=say(exc), advice="see the error")
        results.append(Verified(check=check, name=name, findings=(finding,)))
    return None
