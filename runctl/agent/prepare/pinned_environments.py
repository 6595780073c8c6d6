"""The environment of a run, with the versions that its first attempt installed."""

from pathlib import Path

from runctl.agent.prepare.dependencies import Declared
from runctl.agent.prepare.environment import Environments
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.signals.waiting import CancellableWait
from runctl.aws.versions import VersionStore


class PinnedEnvironments:
    """Environments whose versions are the run's, recorded before the first trainer starts."""

    def __init__(
        self,
        environments: Environments,
        versions: VersionStore,
        *,
        attempt: int,
        wait: CancellableWait,
    ) -> None:
        self._environments = environments
        self._versions = versions
        self._attempt = attempt
        self._wait = wait

    def prepare(self, declared: Declared) -> Path:
        """Return the environment's folder; RequestError when it cannot be built."""
        if not declared.installs:
            return self._environments.prepare(declared)
        pinned = self._wait.retry(self._versions.read)
        environment = self._environments.prepare(declared, pinned)
        if pinned is None:
            found = installed_versions(environment, attempt=self._attempt)
            recorded = self._wait.retry(lambda: self._versions.record(found))
            if recorded.differing(found):  # another attempt of the run was quicker
                return self._environments.prepare(declared, recorded)
        return environment

    def finish(self, seconds: float) -> None:
        """Wait at most `seconds` until a new environment is in the cache."""
        self._environments.finish(seconds)
