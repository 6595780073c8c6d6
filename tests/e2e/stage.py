"""What the end-to-end tests do on a deployed system: start runs, interrupt them, wait, look."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from runctl.aws.clients import Clients, Connection
from runctl.aws.deployment import Deployment, read_deployment
from runctl.aws.ledger import DynamoLedger
from runctl.aws.logs import LogReader
from runctl.aws.workflow import Execution, StepFunctions
from runctl.local.client import LocalCloudClient
from runctl.local.daemon import ACCESS_KEY, SECRET_KEY, Endpoint
from runctl.model.checkpoint import Manifest
from runctl.model.identity import code_key, log_stream, output_prefix, part_key
from runctl.model.run import Attempt, AttemptStage, Run

PROJECT = Path(__file__).parents[2]
Found = TypeVar("Found")


def wait_for(
    look: Callable[[], Found | None], what: str, *, timeout: timedelta = timedelta(seconds=90)
) -> Found:
    """Return the first truthy thing that `look` finds."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout.total_seconds():.0f} s for {what}")
        time.sleep(0.05)


@dataclass
class Stage:
    """A deployed system on a local cloud, seen with an administrator's eyes."""

    endpoint: Endpoint
    clients: Clients = field(init=False)
    cloud: LocalCloudClient = field(init=False)
    deployment: Deployment = field(init=False)

    def __post_init__(self) -> None:
        self.clients = Clients(
            Connection(
                region=self.endpoint.region,
                endpoint_url=self.endpoint.url,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
            )
        )
        self.cloud = LocalCloudClient(self.endpoint.url)
        self.deployment = read_deployment(self.clients.get("ssm"))
        self.ledger = DynamoLedger(self.clients.get("dynamodb"), self.deployment.table)
        self.workflow = StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self.deployment.state_machine_arn
        )
        self.logs = LogReader(self.clients.get("logs"), group=self.deployment.log_group)

    # Starting.

    def upload_project(self, files: dict[str, bytes | str | Path]) -> str:
        """Upload a project of these files and return the URI of its archive."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, content in files.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                data = data.encode() if isinstance(data, str) else data
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        body = packed.getvalue()
        key = code_key(hashlib.sha256(body).hexdigest())
        self.clients.get("s3").put_object(Bucket=self.deployment.bucket, Key=key, Body=body)
        return f"s3://{self.deployment.bucket}/{key}"

    def start(self, request: dict[str, Any], *, name: str = "") -> str:
        """Start a run and return its id."""
        run_id = name or f"test-{uuid.uuid4().hex[:12]}"
        self.workflow.start_run(run_id, request)
        return run_id

    def aws(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the plain AWS CLI against the local endpoint."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "aws"), *arguments],
            env={**os.environ, **self.endpoint.environment()},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    # Watching.

    def run(self, run_id: str) -> Run:
        """Return the run, which the ledger must know."""
        found = self.ledger.find_run(run_id)
        assert found is not None, f"the ledger has no run {run_id}"
        return found

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return the run's attempts."""
        return self.ledger.attempts(run_id)

    def wait_for_training(
        self, run_id: str, *, attempt: int = 1, step: int | None = None
    ) -> Attempt:
        """Wait until an attempt trains, and has committed a step if one is given."""

        def look() -> Attempt | None:
            if self.execution(run_id).status not in {"RUNNING"}:
                raise AssertionError(f"{run_id} ended early: {self.story(run_id)}")
            found = self.ledger.find_attempt(run_id, attempt)
            if found is None or found.stage is not AttemptStage.TRAINING:
                return None
            if "started" not in found.timeline:
                return None
            if step is None:
                return found
            run = self.run(run_id)
            return found if run.step is not None and run.step >= step else None

        return wait_for(look, f"{run_id} to train in attempt {attempt} up to step {step}")

    def execution(self, name: str) -> Execution:
        """Return an execution by name."""
        found = self.workflow.find_execution(self.workflow.execution_arn(name))
        assert found is not None, f"there is no execution {name}"
        return found

    def wait_for_training_completion(
        self, run_id: str, *, execution: str = "", timeout: timedelta = timedelta(seconds=120)
    ) -> Execution:
        """Wait until the run's execution has ended and return it."""

        def look() -> Execution | None:
            found = self.execution(execution or run_id)
            return None if found.is_running else found

        try:
            return wait_for(look, f"{run_id} to end", timeout=timeout)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}: {self.story(run_id)}") from exc

    def story(self, run_id: str) -> str:
        """Tell what is known of a run, for the message of a test that failed."""
        run = self.ledger.find_run(run_id)
        execution = self.workflow.find_execution(self.workflow.execution_arn(run_id))
        lines = [f"run {run}", f"execution {execution}"]
        for attempt in self.ledger.attempts(run_id):
            lines.append(f"attempt {attempt}".replace(attempt.token or "no token", "…"))
            lines += [f"  | {line}" for line in self.log(run_id, attempt.number)[-15:]]
            lines += [f"  # {line}" for line in self.agent_log(run_id, attempt.number)[-15:]]
        return "\n".join(lines)

    def log(self, run_id: str, attempt: int) -> list[str]:
        """Return what the trainer said in an attempt."""
        return list(self._lines(log_stream(run_id, attempt)))

    def agent_log(self, run_id: str, attempt: int) -> list[str]:
        """Return what the agent said in an attempt."""
        return list(self._lines(f"{log_stream(run_id, attempt)}-agent"))

    def _lines(self, stream: str) -> Iterator[str]:
        position = ""
        while True:
            lines, after = self.logs.read(stream, position=position)
            yield from (line.text for line in lines)
            if after == position or not lines:
                return
            position = after

    # The instances.

    def create_test_spot_instance(self, run_id: str, *, attempt: int = 1) -> str:
        """Return the spot instance that the run launched for an attempt."""
        launched = wait_for(
            lambda: next(
                (a for a in self.attempts(run_id) if a.number == attempt and a.was_launched), None
            ),
            f"attempt {attempt} of {run_id} to be launched",
        )
        return launched.instance_ids[0]

    def simulate_spot_interruption(
        self, run_id: str, *, attempt: int, notice: bool = True, notice_seconds: float = 20
    ) -> str:
        """Let EC2 reclaim an attempt's instance and return the instance's id."""
        instance_id = self.create_test_spot_instance(run_id, attempt=attempt)
        self.cloud.interrupt(instance_id, notice=notice, notice_seconds=notice_seconds)
        return instance_id

    def instances(self, run_id: str) -> list[dict[str, Any]]:
        """Return every instance that the run ever had."""
        return [one for one in self.cloud.instances() if one["tags"].get("runctl:run-id") == run_id]

    def live_instances(self, run_id: str) -> list[str]:
        """Return the run's instances that are not terminated."""
        return [
            one["instance_id"] for one in self.instances(run_id) if one["state"] != "terminated"
        ]

    def wait_for_no_instance(self, run_id: str) -> None:
        """Wait until every instance of the run is terminated."""
        wait_for(lambda: not self.live_instances(run_id), f"the instances of {run_id} to end")

    # What is left behind.

    def verify_checkpoint_exists(self, run_id: str) -> Manifest:
        """Return the newest checkpoint's manifest after checking that every part is there."""
        run = self.run(run_id)
        assert run.newest is not None, f"{run_id} has no checkpoint"
        s3 = self.clients.get("s3")
        body = s3.get_object(Bucket=self.deployment.bucket, Key=run.newest)["Body"].read()
        manifest = Manifest.from_json(body)
        for entry in manifest.entries:
            for part in entry.parts:
                content = s3.get_object(
                    Bucket=self.deployment.bucket, Key=part_key(run_id, part.sha256)
                )["Body"].read()
                assert hashlib.sha256(content).hexdigest() == part.sha256
        return manifest

    def output(self, run_id: str, name: str) -> bytes:
        """Return a file that the trainer left in RUNCTL_OUTPUT_DIR."""
        key = f"{output_prefix(run_id)}{name}"
        body: bytes = (
            self.clients.get("s3").get_object(Bucket=self.deployment.bucket, Key=key)["Body"].read()
        )
        return body

    def result(self, run_id: str) -> dict[str, Any]:
        """Return the trainer's result.json."""
        found: dict[str, Any] = json.loads(self.output(run_id, "result.json"))
        return found
