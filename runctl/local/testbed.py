"""A deployed system on a local cloud: start runs, interrupt them, wait and observe."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

from runctl.aws.clients import Clients, Connection
from runctl.aws.deployment import read_deployment
from runctl.aws.services import AwsServices
from runctl.aws.workflow import Execution
from runctl.local.client import Json, LocalCloudClient
from runctl.local.daemon import Endpoint
from runctl.model.errors import NotFoundError
from runctl.model.identity import (
    DEFAULT_DEPLOYMENT,
    DEPLOYMENT_TAG,
    RUN_TAG,
    agent_log_stream,
    log_stream,
    output_prefix,
)
from runctl.model.run import Attempt, AttemptStage, Run

Found = TypeVar("Found")


def wait_for(
    check: Callable[[], Found | None],
    what: str,
    *,
    timeout: timedelta = timedelta(seconds=180),
    pause: timedelta = timedelta(milliseconds=150),
) -> Found:
    """Return the first truthy result of `check`, or raise TimeoutError."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        if found := check():
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout.total_seconds():.0f} s for {what}")
        time.sleep(pause.total_seconds())


class Testbed(AwsServices):
    """A deployment on a local cloud, with an administrator's view of it.

    The demo, the benchmarks and the end-to-end tests act on it; raises NotFoundError if nothing is
    deployed there.
    """

    def __init__(self, endpoint: Endpoint, *, name: str = DEFAULT_DEPLOYMENT) -> None:
        clients = Clients(
            Connection(
                region=endpoint.region,
                endpoint_url=endpoint.url,
                access_key=endpoint.keys.access_key_id,
                secret_key=endpoint.keys.secret_access_key,
            )
        )
        super().__init__(clients, read_deployment(clients.get("ssm"), name=name))
        self.endpoint = endpoint
        self.cloud = LocalCloudClient(endpoint.url, key=endpoint.keys.admin)

    def run(self, run_id: str) -> Run:
        """Return the run; raise NotFoundError if it is not in the ledger."""
        found = self.ledger.find_run(run_id)
        if found is None:
            raise NotFoundError(f"the ledger has no run {run_id}")
        return found

    def execution(self, name: str) -> Execution:
        """Return an execution by its name."""
        found = self.workflow.find_execution(self.workflow.execution_arn(name))
        if found is None:
            raise NotFoundError(f"there is no execution {name}")
        return found

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return the run's attempts in the order of their numbers."""
        return self.ledger.attempts(run_id)

    def wait_for_training(
        self,
        run_id: str,
        *,
        attempt: int = 1,
        step: int | None = None,
        save: int = 0,
        timeout: timedelta = timedelta(seconds=180),
    ) -> Attempt:
        """Wait until an attempt's trainer runs and the run has committed `step` and `save` saves.

        Raises TimeoutError with the run's story if that takes too long or can no longer happen.
        """

        def check() -> Attempt | None:
            if not self.execution(run_id).is_running:
                raise TimeoutError(f"{run_id} ended early: {self.story(run_id)}")
            found = self.ledger.find_attempt(run_id, attempt)
            if found is None or found.stage is not AttemptStage.RUNNING:
                return None
            if "started" not in found.timeline:
                return None
            run = self.run(run_id)
            has_step = step is None or (run.step is not None and run.step >= step)
            return found if has_step and run.save >= save else None

        awaited = f"attempt {attempt} to train, step {step}, save {save}"
        return self._wait(run_id, check, awaited, timeout)

    def wait_for_end(
        self, execution: str, *, run_id: str = "", timeout: timedelta = timedelta(seconds=120)
    ) -> Execution:
        """Wait until an execution has ended and return it."""

        def check() -> Execution | None:
            found = self.execution(execution)
            return None if found.is_running else found

        return self._wait(run_id or execution, check, "the end", timeout)

    def _wait(
        self, run_id: str, check: Callable[[], Found | None], what: str, timeout: timedelta
    ) -> Found:
        try:
            return wait_for(check, f"{run_id}: {what}", timeout=timeout)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}: {self.story(run_id)}") from exc

    def wait_for_launch(self, run_id: str, *, attempt: int) -> str:
        """Wait until an attempt has its instance and return the instance's id."""

        def check() -> Attempt | None:
            found = self.ledger.find_attempt(run_id, attempt)
            return found if found is not None and found.was_launched else None

        launched = self._wait(run_id, check, f"attempt {attempt}", timedelta(seconds=60))
        return launched.instance_ids[0]

    def interrupt(
        self, run_id: str, *, attempt: int, notice: bool = True, notice_seconds: float = 20
    ) -> str:
        """Let EC2 reclaim an attempt's instance and return the instance's id."""
        instance_id = self.wait_for_launch(run_id, attempt=attempt)
        self.cloud.interrupt(instance_id, notice=notice, notice_seconds=notice_seconds)
        return instance_id

    def cut_network(self, instance_id: str) -> None:
        """Cut an instance off from AWS and the others, which neither end notices by itself."""
        self.cloud.cut_network(instance_id)

    def restore_network(self, instance_id: str) -> None:
        """Join an instance to AWS and the others again."""
        self.cloud.restore_network(instance_id)

    def instances(self, run_id: str) -> list[Json]:
        """Return every instance that the run ever had."""
        wanted = {RUN_TAG: run_id, DEPLOYMENT_TAG: self.deployment.name}
        return [
            instance
            for instance in self.cloud.instances()
            if wanted.items() <= instance["tags"].items()
        ]

    def live_instances(self, run_id: str) -> list[str]:
        """Return the run's instances that are not terminated."""
        return [
            instance["instance_id"]
            for instance in self.instances(run_id)
            if instance["state"] != "terminated"
        ]

    def log(self, run_id: str, attempt: int) -> list[str]:
        """Return the trainer's output in an attempt."""
        return list(self._lines(log_stream(run_id, attempt, 0)))

    def agent_log(self, run_id: str, attempt: int) -> list[str]:
        """Return the agent's log of an attempt."""
        return list(self._lines(agent_log_stream(log_stream(run_id, attempt, 0))))

    def _lines(self, stream: str) -> Iterator[str]:
        position = ""
        while True:
            lines, after = self.logs.read(stream, position=position)
            yield from (line.text for line in lines)
            if after == position or not lines:
                return
            position = after

    def output(self, run_id: str, name: str) -> bytes:
        """Return a file that the trainer left in RUNCTL_OUTPUT_DIR."""
        key = f"{output_prefix(run_id)}{name}"
        with self.blobs.open(key) as blob:
            return b"".join(blob.chunks)

    def result(self, run_id: str) -> Json:
        """Return the result.json that the example trainers write."""
        found: Json = json.loads(self.output(run_id, "result.json"))
        return found

    def story(self, run_id: str) -> str:
        """Describe everything known about a run, for the message of a failure."""
        execution = self.workflow.find_execution(self.workflow.execution_arn(run_id))
        lines = [f"run {self.ledger.find_run(run_id)}", f"execution {execution}"]
        for attempt in self.ledger.attempts(run_id):
            lines.append(f"attempt {attempt}")
            lines += [f"  | {line}" for line in self.log(run_id, attempt.number)[-15:]]
            lines += [f"  # {line}" for line in self.agent_log(run_id, attempt.number)[-15:]]
        return "\n".join(lines)
