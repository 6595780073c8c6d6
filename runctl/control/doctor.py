"""Doctor: finds what is orphaned in an account, and removes what is safe to remove."""

from dataclasses import dataclass, replace

from runctl.control.compute_checks import ComputeChecks
from runctl.control.findings import Account, Check, Finding, cannot_be_fixed, say
from runctl.control.ports.services import Services
from runctl.control.storage_checks import StorageChecks


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The result of a check; `problem` says why it failed, and then there are no findings."""

    check: str
    findings: tuple[Finding, ...] = ()
    problem: str = ""


def examine(check: Check) -> Examination:
    """Run a check; an error is reported for this check and does not affect the others."""
    try:
        return Examination(check=check.name, findings=tuple(check.find()))
    except Exception as exc:  # noqa: BLE001 - an unreadable item must not hide the others
        return Examination(check=check.name, problem=say(exc))


def fix_findings(check: Check, examined: Examination) -> Examination:
    """Apply the remedies of the findings; each checks once more before it removes anything."""
    fixable = [finding for finding in examined.findings if finding.remedy]
    if not fixable:
        return examined
    try:
        failed = check.fix(fixable)
    except Exception as exc:  # noqa: BLE001 - the other checks go on
        failed = dict.fromkeys((finding.name for finding in fixable), say(exc))

    def fixed(finding: Finding) -> Finding:
        error = failed.get(finding.name, "")
        return replace(finding, is_fixed=not error, error=error) if finding.remedy else finding

    return replace(examined, findings=tuple(map(fixed, examined.findings)))


class Doctor:
    """The checks of a deployment; only `fix` changes anything."""

    def __init__(
        self, services: Services, account: Account, *, deployed: str, version: str, is_whole: bool
    ) -> None:
        """`deployed` and `version` are the versions of the deployment and of the command.

        `is_whole` says that the deployment's parameter contains everything the checks need.
        """
        self._services = services
        self._account = account
        self._deployed = deployed
        self._version = version
        self._is_whole = is_whole

    def checks(self) -> tuple[Check, ...]:
        """Return the checks in the order in which they are best fixed."""
        return (
            Check(name="deployment", find=self._find_old_deployment, fix=cannot_be_fixed),
            Check(name="dead letters", find=self._find_dead_letters, fix=cannot_be_fixed),
            *ComputeChecks(self._services, self._account).checks(),
            *StorageChecks(self._services, self._account).checks(),
        )

    def _find_old_deployment(self) -> list[Finding]:
        advice = "run `cdk deploy` with the newer one"
        found = []
        if self._deployed != self._version:
            why = f"the deployment has version {self._deployed}, this command {self._version}"
            found.append(Finding(name="version", why=why, advice=advice))
        if not self._is_whole:
            why = "it does not name its machines and dead letters: it is too old"
            found.append(Finding(name="parameter", why=why, advice="run `cdk deploy`"))
        return found

    def _find_dead_letters(self) -> list[Finding]:
        count = self._account.dead_letters()
        if not count:
            return []
        why = f"{count} events that no function could handle; reconciliations make up for them"
        advice = "read them and the functions' logs; they leave the queue after 14 days"
        return [Finding(name="dead-letter queue", why=why, advice=advice)]
