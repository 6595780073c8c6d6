"""What the end-to-end tests do with a deployed system, under the names that people know."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from runctl.aws.ledger import DynamoLedger
from runctl.aws.workflow import Execution
from runctl.local import testbed
from runctl.local.guest import own_user
from runctl.model.checkpoint import Manifest
from runctl.model.identity import code_key, part_key
from runctl.model.run import Run

PROJECT = Path(__file__).parents[2]
wait_for = testbed.wait_for


class Testbed(testbed.Testbed):
    """A deployed system, and the tests' ways of acting on it."""

    def let_programs_write(self, folder: Path) -> None:
        """Give a folder to the user of programs, if that is not the user of the tests."""
        if self.cloud.health()["own_user"]:
            os.chown(folder, own_user.UID, own_user.UID)

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
            timeout=240,
        )

    def create_test_spot_instance(self, run_id: str, *, attempt: int = 1) -> str:
        """Return the spot instance that the run launched for an attempt."""
        return self.wait_for_launch(run_id, attempt=attempt)

    def simulate_spot_interruption(
        self, run_id: str, *, attempt: int, notice: bool = True, notice_seconds: float = 20
    ) -> str:
        """Let EC2 reclaim an attempt's instance and return the instance's id."""
        return self.interrupt(run_id, attempt=attempt, notice=notice, notice_seconds=notice_seconds)

    def wait_for_training_completion(
        self, run_id: str, *, execution: str = "", timeout: timedelta = timedelta(seconds=240)
    ) -> Execution:
        """Wait until the run's execution has ended and return it."""
        return self.wait_for_end(execution or run_id, run_id=run_id, timeout=timeout)

    def wait_for_no_instance(self, run_id: str) -> None:
        """Wait until every instance of the run is terminated."""
        wait_for(lambda: not self.live_instances(run_id), f"the instances of {run_id} to end")

    def verify_checkpoint_exists(self, run_id: str) -> Manifest:
        """Return the newest checkpoint's manifest after checking that every part exists."""
        run = self.run(run_id)
        assert run.newest is not None, f"{run_id} has no checkpoint"
        manifest = Manifest.from_json(self._read(run.newest))
        for entry in manifest.entries:
            for part in entry.parts:
                content = self._read(part_key(run_id, part.sha256))
                assert hashlib.sha256(content).hexdigest() == part.sha256
        return manifest

    def stored(self, run_id: str) -> "StoredRun":
        """Return where a run's checkpoints are, for a test that commits one itself."""
        return StoredRun(
            run_id=run_id,
            name=self.deployment.bucket,
            clients={"s3": self.clients.get("s3")},
            ledger=self.ledger,
        )

    def _read(self, key: str) -> bytes:
        answer = self.clients.get("s3").get_object(Bucket=self.deployment.bucket, Key=key)
        content: bytes = answer["Body"].read()
        return content


@dataclass(frozen=True)
class StoredRun:
    """A run's checkpoints: the bucket of that name, and the ledger."""

    run_id: str
    name: str
    clients: dict[str, Any]
    ledger: DynamoLedger

    def run(self) -> Run:
        """Return the run."""
        found = self.ledger.find_run(self.run_id)
        assert found is not None
        return found
