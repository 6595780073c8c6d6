"""A machine that runctl did not launch, and that is lent: everything that can be done with it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.test_existing_instances import (
    EXAMPLES,
    TRAINER,
    Program,
    launch_foreign,
    permit_monitoring,
    reclaim_and_compare,
    saved,
)
from tests.e2e.test_existing_instances import start_theirs as start_of_its_owner
from tests.e2e.testbed import PROJECT, Testbed, wait_for
from tests.machine.machines import Machine, MachineRun, Machines, only_in_test_machine

pytestmark = [only_in_test_machine, pytest.mark.e2e]

WHEEL = next((PROJECT / "build/wheels").glob("h11-*.whl"))
TRAIN = """
import os, pathlib, sys
import h11

try:
    pathlib.Path(h11.__file__).write_text("")
    print("changed its environment", flush=True)
except PermissionError:
    pass
print("user", os.getuid(), "owner", os.stat(h11.__file__).st_uid, flush=True)
"""
SHARD = """
import os, pathlib

names = sorted(path.name for path in pathlib.Path(os.environ["RUNCTL_INPUT_DIR"]).rglob("*.csv"))
assert names
place = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], f"shard-{os.environ['RUNCTL_SHARD']}")
place.write_text(f"{os.getuid()} {' '.join(names)}")
"""
SERVE = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

port = int(os.environ["RUNCTL_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def runctl(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return the command, in a project."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(EXAMPLES / TRAINER, project)
    (project / ".runctl.toml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr("runctl.cli.cloud.POLL_SECONDS", 0.2)
        yield Program(machines.testbed)


@contextlib.contextmanager
def foreign(machines: Machines) -> Iterator[tuple[Machine, str]]:
    """Launch a machine as its owner would; yield it and the name of its role."""
    testbed = machines.testbed
    instance_id, role = launch_foreign(testbed, machines.new_name(), market="spot")
    testbed.clients.get("iam").attach_role_policy(
        RoleName=role, PolicyArn=testbed.deployment.instance_policy
    )
    machine = Machine(testbed, instance_id)
    registered = testbed.existing_instances.is_registered
    wait_for(lambda: machine.is_on and registered(instance_id), "the registration with SSM")
    yield machine, role
    testbed.clients.get("ec2").terminate_instances(InstanceIds=[instance_id])


@pytest.fixture(scope="module")
def lent(machines: Machines, runctl: Program) -> Iterator[Machine]:
    """Return a machine that is lent, with the uv of its image."""
    with foreign(machines) as (machine, _):
        shutil.copy(PROJECT / ".venv/bin/uv", machine.inside("/usr/local/bin/uv"))
        assert "is not lent" in refusal(machines, machine.instance_id)
        runctl("aws", "lend", machine.instance_id, "--for", "1h")
        yield machine


def refusal(machines: Machines, instance_id: str) -> str:
    """Return why a run does not start on a machine."""
    run = machines.start("print('never')", instance_id=instance_id)
    assert run.wait_for_end() == "FAILED"
    return run.testbed.execution(run.run_id).cause or ""


def succeed(run: MachineRun, machine: Machine) -> None:
    assert run.wait_for_end() == "SUCCEEDED", run.testbed.story(run.run_id)
    (attempt,) = run.testbed.attempts(run.run_id)
    assert attempt.instance_ids == (machine.instance_id,)


def test_run_has_an_environment_that_uv_built_as_the_user(
    machines: Machines, lent: Machine
) -> None:
    machine = lent
    run = machines.start(
        TRAIN,
        files={
            "requirements.txt": f"--no-index\n--find-links wheels\n{WHEEL.name.split('-')[0]}\n",
            f"wheels/{WHEEL.name}": WHEEL,
        },
        instance_id=machine.instance_id,
    )
    succeed(run, machine)
    assert run.testbed.log(run.run_id, 1)[-1:] == ["user 58113 owner 0"]
    agent = "\n".join(run.testbed.agent_log(run.run_id, 1))
    assert "pip is used instead of uv" not in agent, agent
    assert machine.testbed.cloud.instance(machine.instance_id)["state"] == "running"


def test_shards_are_processed_as_the_user(machines: Machines, lent: Machine) -> None:
    machine = lent
    testbed = machines.testbed
    bucket, name = testbed.deployment.bucket, machines.new_name()
    for number in range(3):
        testbed.clients.get("s3").put_object(
            Bucket=bucket, Key=f"inputs/{name}/{number}.csv", Body=b"1,2\n"
        )
    run = machines.start_request(
        {
            "kind": "process",
            "code": testbed.upload_project({"job.py": SHARD}),
            "script": "job.py",
            "instance_id": machine.instance_id,
            "process": {
                "input": f"s3://{bucket}/inputs/{name}/",
                "output": f"s3://{bucket}/outputs/{name}/",
                "workers": 2,
            },
        }
    )
    succeed(run, machine)
    assert shards(testbed, f"outputs/{name}/") == {
        f"shard-{number}": f"58113 {number}.csv" for number in range(3)
    }


def shards(testbed: Testbed, prefix: str) -> dict[str, str]:
    """Return what the shards of a job have stored."""
    client, bucket = testbed.clients.get("s3"), testbed.deployment.bucket
    keys = [
        item["Key"] for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    ]
    return {
        key.rpartition("/")[2]: client.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        for key in keys
        if "/shard-" in key
    }


def test_server_is_probed_and_started_again_as_the_user(machines: Machines, lent: Machine) -> None:
    machine = lent
    testbed = machines.testbed
    run = machines.start_request(
        {
            "kind": "serve",
            "code": testbed.upload_project({"server.py": SERVE}),
            "script": "server.py",
            "instance_id": machine.instance_id,
            "serve": {"port": 8080, "probe_path": "/health", "drain_seconds": 0},
        }
    )

    def server() -> Any:
        """Return the process of the server once it is ready."""
        found = testbed.ledger.find_attempt(run.run_id, 1)
        is_ready = found is not None and found.service is not None and found.service.is_ready
        pids = machine.processes("^/var/lib/runctl/.* server[.]py")
        return next(iter(pids), None) if is_ready else None

    first = wait_for(server, "the server to be ready")
    assert machine.run("stat", "--format=%U", f"/proc/{first}") == "runctl-trainer"
    machine.run("kill", "-KILL", str(first))
    wait_for(lambda: server() not in {None, first}, "the server to be started again")
    testbed.workflow.stop_run(testbed.execution(run.run_id).arn, cause="done")
    wait_for(lambda: not machine.processes("server[.]py"), "the server to end")


def test_machine_without_the_user_runs_nothing_and_saves_the_process_of_its_owner(
    machines: Machines, runctl: Program
) -> None:
    with foreign(machines) as (machine, role):
        refuse_a_run_without_the_user(machines, machine, runctl)
        monitor_until_it_is_reclaimed(machines, machine, role, runctl)


def refuse_a_run_without_the_user(machines: Machines, machine: Machine, runctl: Program) -> None:
    useradd = machine.inside("/usr/sbin/useradd")
    useradd.write_text("#!/bin/sh\necho 'useradd: cannot lock /etc/passwd' >&2\nexit 1\n")
    runctl("aws", "lend", machine.instance_id, "--for", "1h")
    run = machines.start("print('never')", instance_id=machine.instance_id)
    assert run.wait_for_end() == "FAILED", run.testbed.story(run.run_id)
    assert "the machine has no user for it" in run.testbed.run(run.run_id).reason
    assert "never" not in run.testbed.log(run.run_id, 1)


def monitor_until_it_is_reclaimed(
    machines: Machines, machine: Machine, role: str, runctl: Program
) -> None:
    testbed = machines.testbed
    bucket, prefix = testbed.deployment.bucket, f"runs/{machines.new_name()}/theirs"
    permit_monitoring(testbed, role, prefix)
    pid = start_of_its_owner(testbed, machine.instance_id)
    runctl(
        "aws", "spot-monitor", machine.instance_id, "--auto-save-checkpoint",
        "--upload-to-s3", f"s3://{bucket}/{prefix}/", "--pid", str(pid),
    )  # fmt: skip
    assert machine.run("systemctl", "is-active", "runctl-monitor") == "active"
    wait_for(lambda: saved(testbed, prefix), "a first checkpoint")
    reclaim_and_compare(testbed, machine.instance_id, prefix, machine.overlay / "home")
