"""One instance of the tests: a root folder, a metadata service, and the agent as a real process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from runctl.agent.instance import processes
from runctl.aws.ledger import DynamoLedger
from runctl.fault_points import VARIABLE
from runctl.model.node import NodeId
from runctl.model.request import RunRequest
from runctl.model.run import Attempt, Launched, Run
from runctl.model.saving_options import CheckpointOptions
from runctl.model.subject import Subject
from tests.agent.doubles import CredentialsDouble, MetadataDouble, TokensDouble

PROJECT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
ARN = "arn:aws:states:us-east-1:000000000000:execution:runctl-train:run-1"


def now() -> datetime:
    return datetime.now(timezone.utc)


def wait_until(what: Callable[[], Any], seconds: float = 120, *, why: str = "") -> Any:
    """Wait until `what` is true and return it; another process makes it true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.06)
    raise TimeoutError(why or "it did not happen")


def end_tree(pid: int, *, folder: Path | None = None) -> processes.KilledTree:
    """SIGKILL all descendants of a process."""
    return processes.end_all(
        lambda: processes.descendants(pid), reap=processes.reap_orphans, folder=folder
    )


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Cloud:
    """The services that the machines of one test share, and the actions of the control plane."""

    name: str
    endpoint: str
    clients: dict[str, Any]
    tokens: TokensDouble
    run_id: str = "run-1"
    ledger: DynamoLedger = field(init=False)
    sessions: CredentialsDouble = field(init=False)
    metadata: MetadataDouble = field(default_factory=MetadataDouble)

    def __post_init__(self) -> None:
        self.ledger = DynamoLedger(self.clients["dynamodb"], self.name)
        self.sessions = CredentialsDouble(self.ledger.find_instance)

    def access_of(self, instance_id: str) -> dict[str, str]:
        """Return the variables of a process on an instance that is no Machine of the test."""
        self.sessions.find = lambda _instance_id: NodeId(self.run_id, 1, 0)
        return {
            **self.sessions.variables(instance_id),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
        }

    def create_run(
        self,
        program: str = "",
        *,
        files: dict[str, str] | None = None,
        checkpoint: CheckpointOptions | None = None,
        subject: Subject | None = None,
        **request: Any,
    ) -> Run:
        """Submit a project whose script `train.py` is `program`."""
        project = {"train.py": textwrap.dedent(program), **(files or {})}
        self.clients["s3"].put_object(
            Bucket=self.name, Key="code/project.tar.gz", Body=packed(project)
        )
        given = {"script": "train.py", "code": f"s3://{self.name}/code/project.tar.gz", **request}
        return self.ledger.create_run(
            Run(
                run_id=self.run_id,
                request=RunRequest.of(checkpoint=checkpoint or CheckpointOptions(), **given),
                started_at=now(),
                execution=self.run_id,
                execution_arn=ARN,
                subject=subject,
            )
        )

    def open_attempt(self, number: int = 1) -> None:
        self.ledger.open_attempt(
            self.run_id, number, launch_try=1, source=Launched("{}"), now=now()
        )
        self.ledger.record_launch(
            self.run_id, number, instance_ids=[f"i-{number}"], pool="a/b/spot", now=now()
        )

    def give_token(self, number: int = 1, token: str = "") -> str:
        token = token or f"token-{number}"
        self.tokens.valid.add(token)
        self.ledger.record_token(self.run_id, number, token=token, execution_arn=ARN, now=now())
        return token

    def run(self) -> Run:
        run = self.ledger.find_run(self.run_id)
        assert run is not None
        return run

    def attempt(self, number: int = 1) -> Attempt:
        attempt = self.ledger.find_attempt(self.run_id, number)
        assert attempt is not None
        return attempt

    def outcome(self, seconds: float = 40) -> dict[str, Any]:
        """Wait for the first report and return its outcome."""
        reports = self.tokens.wait_for(lambda: self.tokens.reports, seconds)
        return dict(reports[0]["outcome"])

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.clients["s3"].get_paginator("list_objects_v2")
        return [
            item["Key"]
            for page in pages.paginate(Bucket=self.name, Prefix=prefix)
            for item in page.get("Contents", ())
        ]

    def read(self, key: str) -> bytes:
        return bytes(self.clients["s3"].get_object(Bucket=self.name, Key=key)["Body"].read())

    def log(self, stream: str) -> list[str]:
        try:
            answer = self.clients["logs"].get_log_events(
                logGroupName=self.name, logStreamName=stream, startFromHead=True
            )
        except self.clients["logs"].exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in answer["events"]]


def packed(files: dict[str, str]) -> bytes:
    """Return a .tar.gz of `files`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), 0o644
            archive.addfile(info, io.BytesIO(text.encode()))
    return content.getvalue()


class Machine:
    """A machine and its agent."""

    def __init__(
        self,
        root: Path,
        cloud: Cloud,
        metadata: MetadataDouble,
        *,
        attempt: int,
        fault: str = "",
        under: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._variables = variables or {}
        self.fault = fault
        self._under = under
        self.root = root
        self.cloud = cloud
        self.metadata = metadata
        self.attempt = attempt
        self.process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []
        bin_folder = root / "bin"
        bin_folder.mkdir(parents=True)
        shim = bin_folder / "shutdown"
        shim.write_text(f'#!/bin/sh\necho "$@" >> "{root}/shutdown"\n')
        shim.chmod(0o755)
        self.report_fence("loaded")

    def report_fence(self, result: str) -> None:
        """Write the result that runctl-fence.service leaves for the agent."""
        (self.root / "run/runctl").mkdir(parents=True, exist_ok=True)
        (self.root / "run/runctl/fence").write_text(f"{result}\n")

    def environment(self) -> dict[str, str]:
        faults = {VARIABLE: self.fault} if self.fault else {}
        return {
            **faults,
            "RUNCTL_ROOT": str(self.root),
            "RUNCTL_TABLE": self.cloud.name,
            "RUNCTL_BUCKET": self.cloud.name,
            "RUNCTL_LOG_GROUP": self.cloud.name,
            **self.cloud.sessions.variables(self.metadata.values["instance-id"]),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.cloud.endpoint,
            "AWS_ENDPOINT_URL_SFN": self.cloud.tokens.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "MALLOC_ARENA_MAX": "2",
            "MALLOC_MMAP_THRESHOLD_": "1048576",
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "PATH": f"{self.root / 'bin'}:{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin",
            **self._variables,
        }

    def start(self) -> None:
        """Start the agent, as its service would."""
        with (self.root / "agent.stderr").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._under, *self._agent(), "run"],
                env=self.environment(),
                cwd=self.root,
                stderr=log,
                start_new_session=True,
            )

    def ask(self, request: str) -> None:
        """Run `runctl-agent drain|checkpoint|stop`, as SSM would."""
        subprocess.run([*self._agent(), request], env=self.environment(), check=True, timeout=240)

    def kill_agent(self) -> None:
        """Kill the agent alone with SIGKILL; systemd would restart it."""
        assert self.process is not None
        self._family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float = 120) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def end(self) -> None:
        """End everything at once, as EC2 does at the deadline."""
        if self.process is not None and self.process.poll() is None:
            self.kill_agent()
        # An agent that died by itself has left its trainer behind, which was not counted before.
        left = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.root) in word for word in process.info["cmdline"] or ())
        ]
        for process in (*self._family, *left):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.metadata.close()

    @property
    def shut_down(self) -> bool:
        return (self.root / "shutdown").exists()

    @property
    def state(self) -> Path:
        return self.root / "var/lib/runctl"

    @property
    def checkpoint(self) -> Path:
        return self.state / "checkpoint"

    def agent_log(self) -> str:
        return (self.root / "agent.stderr").read_text()

    @staticmethod
    def _agent() -> list[str]:
        """The agent as the launcher starts it; the vendored libraries are the tests' own."""
        site = next(path for path in sys.path if path.endswith("site-packages"))
        program = (
            f"import sys; sys.path[:0] = [{str(PROJECT)!r}, {site!r}]; "
            "import pathlib, runctl.agent.__main__ as agent, runctl.agent.service as service; "
            f"service.vendor_folder = lambda: pathlib.Path({site!r}); sys.exit(agent.main())"
        )
        return [os.path.realpath(sys.executable), "-I", "-c", program]
