"""Secrets in the trainer's variables, read just before the trainer starts."""

import logging
import time
from collections.abc import Mapping
from datetime import timedelta

from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.secret_mask import MIN_LENGTH, SecretMask
from runctl.agent.signals.waiting import RETRY, CancellableWait
from runctl.aws.secret_values import SecretValues, UnreadableSecretError
from runctl.model.errors import RequestError, TransientError
from runctl.model.index_variables import index_variables
from runctl.model.secret_references import SecretReference, parse_reference, references_in

# A permission or a secret that is a few seconds old may not be known everywhere yet.
TRIES = 3
# If a service cannot be reached for longer, the network probably has no route to it.
SERVICE_TIMEOUT = timedelta(minutes=10)

logger = logging.getLogger(__name__)


class TrainerSecrets:
    """Resolves the references of a request. Only the trainer and the mask keep the values."""

    def __init__(
        self,
        values: SecretValues,
        *,
        mask: SecretMask,
        wait: CancellableWait,
        progress: Progress,
    ) -> None:
        self._values = values
        self._mask = mask
        self._wait = wait
        self._progress = progress

    def expect(self, env: Mapping[str, str]) -> None:
        """Let the log of an earlier agent be shipped at once if the request has no secrets."""
        if not references_in(env):
            self._mask.hide(())

    def resolve_indexes(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that name package indexes, with the secrets that they refer to."""
        named = index_variables(env)
        if not references_in(named):
            return named
        resolved = self._wait.run_in_background(lambda: self.resolve(env))
        return {name: resolved[name] for name in named}

    def resolve(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables with every reference replaced.

        Raises RequestError with the names of all references that cannot be resolved, and without
        any value. The mask hides the values before this returns.
        """
        found: dict[str, str] = {}
        problems = []
        for name, reference in references_in(env).items():
            try:
                found[name] = self.fetch(f"env.{name}: {reference}", reference)
            except UnreadableSecretError as exc:
                problems.append(f"env.{name}: {reference}: {exc}")
        self._mask.hide(found.values(), are_all=not problems)
        if problems:
            raise RequestError("; ".join(problems))
        for name, value in found.items():
            if len(value) < MIN_LENGTH:
                logger.info("env.%s is too short to be masked in the logs", name)
        if found:
            logger.info("read the secrets of %s", ", ".join(sorted(found)))
        return {**env, **found}

    def fetch_text(self, field: str, text: str) -> str:
        """Return the value of a reference that is given as a text, as `fetch` does."""
        reference = parse_reference(text)
        if reference is None:
            raise UnreadableSecretError(f"{field}: {text} is not a reference to a secret")
        try:
            return self.fetch(field, reference)
        except UnreadableSecretError as exc:
            raise UnreadableSecretError(f"{field}: {text}: {exc}") from exc

    def fetch(self, field: str, reference: SecretReference) -> str:
        """Return the value of a reference, for which the request has the field `field`.

        Raises UnreadableSecretError, after some time also if a service does not answer.
        """
        until = time.monotonic() + SERVICE_TIMEOUT.total_seconds()
        refusals = 0
        while True:
            try:
                value = self._values.fetch(reference)
            except UnreadableSecretError as exc:
                refusals += 1
                if not exc.may_pass or refusals >= TRIES:
                    raise
                logger.warning("trying again: %s: %s", field, exc)
            except TransientError as exc:
                if time.monotonic() > until:
                    raise UnreadableSecretError(
                        f"no answer for {SERVICE_TIMEOUT.total_seconds() / 60:.0f} minutes; does "
                        f"the machine's network reach the service? {exc}"
                    ) from exc
                if self._progress.warn(f"{field}: {exc}", about="secrets"):
                    logger.warning("trying again: %s: %s", field, exc)
            else:
                self._progress.warn("", about="secrets")
                if "\0" in value:
                    raise UnreadableSecretError(
                        "its value contains a NUL character, which a variable cannot hold"
                    )
                return value
            self._wait.pause(RETRY)
