"""The environment of a run, with the versions that its first attempt installed."""

from collections.abc import Mapping
from pathlib import Path

from runctl.agent.prepare.dependencies import Declared
from runctl.agent.prepare.environment import Environments
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.runtime.trainer_user import TrainerUser
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

    def prepare(self, declared: Declared, *, generation: int = 0, is_fresh: bool = False) -> Path:
        """Return the environment's folder; RequestError when it cannot be built.

        `generation` is that of the run. Its first attempt resolves the versions anew if the run
        dropped earlier ones or `is_fresh`; all later attempts use what that one recorded.
        """
        if not declared.installs:
            return self._environments.prepare(declared)
        versions = self._versions.of_generation(generation)
        pinned = self._wait.retry(versions.read)
        environment = self._environments.prepare(
            declared, pinned, generation=generation, is_fresh=is_fresh or generation > 0
        )
        if pinned is None:
            found = installed_versions(environment, attempt=self._attempt)
            recorded = self._wait.retry(lambda: versions.record(found))
            if recorded.differing(found):  # another attempt of the run was quicker
                return self._environments.prepare(declared, recorded, generation=generation)
        return environment

    def run_as(self, user: TrainerUser | None) -> None:
        """Build environments as a user."""
        self._environments.run_as(user)

    def keep_in(self, area: str) -> None:
        """Store new environments in an area, for the runs of that area only; empty: for all."""
        self._environments.keep_in(area)

    def use_indexes(self, variables: Mapping[str, str]) -> None:
        """Take packages from the indexes that these variables of pip name, too."""
        self._environments.use_indexes(variables)

    def wait_until_stored(self) -> str:
        """Wait until the environment is stored; return why it is not, else nothing."""
        return self._wait.retry(self._environments.wait_until_stored)

    def finish(self, seconds: float) -> None:
        """Wait at most `seconds` until a new environment is stored."""
        self._environments.finish(seconds)
