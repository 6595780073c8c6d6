"""Existing instances: created, used, reclaimed, monitored and terminated."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runctl.cli.main import app
from runctl.model.identity import EXISTING_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.outcome import OutcomeKind
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e
EXAMPLES = PROJECT / "examples" / "training"
TRAINER = "train_with_checkpoints.py"


class Program:
    """The `runctl` command as a person types it, in a project folder, on the testbed's cloud."""

    def __init__(self, testbed: Testbed) -> None:
        self._environ = testbed.endpoint.environment()

    def __call__(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(words), env=self._environ, prog_name="runctl")
        assert done.exit_code == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def runctl(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    (tmp_path / TRAINER).write_bytes((EXAMPLES / TRAINER).read_bytes())
    (tmp_path / ".runctl.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runctl.cli.cloud.POLL_SECONDS", 0.2)
    return Program(testbed)


def test_a_run_starts_on_a_created_machine_and_continues_elsewhere_after_its_reclaim(
    testbed: Testbed, runctl: Program, new_name
):
    testbed.cloud.set_knobs(agent_delay=1.0)
    machine = runctl(
        "aws", "create", "--spot", "--instance-type", "m5.large", "--keep-alive", "2",
        "--output", "instance-id",
    ).strip()  # fmt: skip
    held = testbed.cloud.instance(machine)
    assert KEEP_ALIVE_TAG in held["tags"]
    assert RUN_TAG not in held["tags"]

    run_id = new_name()
    runctl(
        "aws", "train", "--detach", "--name", run_id, machine,
        TRAINER, "--steps", "150", "--step-seconds", "0.1",
    )  # fmt: skip
    first = testbed.wait_for_training(run_id, attempt=1, save=1)
    assert first.instance_ids == (machine,)
    busy = runctl("aws", "train", "--detach", machine, TRAINER, code=2)
    assert f"{machine} runs attempt 1 of {run_id}" in busy
    assert f"runctl stop {run_id}" in runctl("aws", "terminate", "--yes", machine, code=2)

    testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=45)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    one, two = testbed.attempts(run_id)
    assert one.ended.kind is OutcomeKind.INTERRUPTED
    assert two.ended.kind is OutcomeKind.COMPLETED
    assert two.instance_ids != (machine,)
    assert two.resume_save is not None
    assert testbed.result(run_id)["step"] == 150


def test_a_created_machine_outlives_its_runs_and_accepts_the_next_one(
    testbed: Testbed, runctl: Program, new_name
):
    machine = json.loads(
        runctl("--json", "aws", "create", "--instance-type", "m5.large", "--keep-alive", "1")
    )["instance_id"]
    for _ in range(2):
        run_id = new_name()
        runctl(
            "aws", "train", "--detach", "--name", run_id, machine,
            TRAINER, "--steps", "5", "--step-seconds", "0.05",
        )  # fmt: skip
        ended = testbed.wait_for_training_completion(run_id)
        assert ended.output["status"] == "completed", testbed.story(run_id)
        (attempt,) = testbed.attempts(run_id)
        assert attempt.instance_ids == (machine,)
        assert attempt.resume_step is None
        assert testbed.cloud.instance(machine)["state"] == "running"
    runctl("aws", "terminate", "--yes", machine)
    wait_for(
        lambda: testbed.cloud.instance(machine)["state"] == "terminated",
        f"{machine} to end",
    )
    assert "terminated" in runctl("aws", "terminate", "--yes", machine)


def run_command(testbed: Testbed, machine: str, *lines: str) -> str:
    """Run a script on a machine as its owner would, and return its output."""
    ssm = testbed.clients.get("ssm")
    sent = ssm.send_command(
        InstanceIds=[machine],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["\n".join(lines)]},
    )
    command_id = sent["Command"]["CommandId"]

    def check() -> dict | None:
        found = ssm.get_command_invocation(CommandId=command_id, InstanceId=machine)
        return None if found["Status"] in {"Pending", "InProgress"} else found

    ended = wait_for(check, f"a command on {machine}")
    assert ended["Status"] == "Success", ended
    return ended["StandardOutputContent"]


def start_theirs(testbed: Testbed, machine: str) -> int:
    """Start a trainer as its owner would, without runctl, and return its process."""
    source = (EXAMPLES / TRAINER).read_text()
    command = run_command(
        testbed,
        machine,
        'mkdir -p "$RUNCTL_ROOT/home/checkpoints" && cd "$RUNCTL_ROOT/home"',
        f"cat >{TRAINER} <<'END'\n{source}\nEND",
        f'RUNCTL_CHECKPOINT_DIR="$PWD/checkpoints" setsid nohup python3 {TRAINER} '
        "--steps 100000 --step-seconds 0.2 --megabytes 1 >out 2>&1 </dev/null &",
        "echo $!",
    )
    return int(command.split()[-1])


def test_the_folder_of_a_foreign_process_is_saved_when_its_machine_is_reclaimed(
    testbed: Testbed, runctl: Program, new_name, foreign_spot_machine
):
    machine, role = foreign_spot_machine
    testbed.clients.get("iam").attach_role_policy(
        RoleName=role, PolicyArn=testbed.deployment.instance_policy
    )
    registered = testbed.existing_instances.is_registered
    wait_for(lambda: registered(machine), "the registration with SSM")
    pid = start_theirs(testbed, machine)
    bucket, prefix = testbed.deployment.bucket, f"runs/{new_name()}/theirs"

    refused = runctl(
        "aws", "spot-monitor", machine, "--pid", str(pid), "--upload-to-s3",
        f"s3://{bucket}/elsewhere/", code=3,
    )  # fmt: skip
    assert "lacks s3:PutObject" in refused
    # Another policy than that of the deployment.
    assert "attach-role-policy" not in refused
    permit_monitoring(testbed, role, prefix)

    told = json.loads(
        runctl(
            "--json", "aws", "spot-monitor", machine, "--auto-save-checkpoint",
            "--upload-to-s3", f"s3://{bucket}/{prefix}/", "--pid", str(pid),
        )
    )  # fmt: skip
    assert told["pid"] == pid
    assert told["checkpoint_dir"].endswith("/home/checkpoints")
    wait_for(lambda: saved(testbed, prefix), "a first checkpoint")

    home = Path(testbed.cloud.instance(machine)["root"], "home")
    reclaim_and_compare(testbed, machine, prefix, home)


def saved(testbed: Testbed, prefix: str) -> dict | None:
    s3 = testbed.clients.get("s3")
    try:
        answer = s3.get_object(Bucket=testbed.deployment.bucket, Key=f"{prefix}/newest.json")
    except s3.exceptions.NoSuchKey:
        return None
    return json.loads(answer["Body"].read())


@pytest.fixture
def foreign_machine(testbed: Testbed, new_name):
    machine, role = launch_foreign(testbed, new_name(), market="on-demand")
    yield machine, role
    testbed.clients.get("ec2").terminate_instances(InstanceIds=[machine])


@pytest.fixture
def foreign_spot_machine(testbed: Testbed, new_name):
    machine, role = launch_foreign(testbed, new_name(), market="spot")
    yield machine, role
    testbed.clients.get("ec2").terminate_instances(InstanceIds=[machine])


def permit_monitoring(testbed: Testbed, role: str, prefix: str) -> None:
    """Permit what a monitor needs, as the owner of a machine does for its role."""
    bucket = testbed.deployment.bucket
    monitors = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"],
                "Resource": f"arn:aws:s3:::{bucket}/{prefix}/*",
            },
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
        ],
    }
    testbed.clients.get("iam").put_role_policy(
        RoleName=role, PolicyName="monitors", PolicyDocument=json.dumps(monitors)
    )


def reclaim_and_compare(testbed: Testbed, machine: str, prefix: str, home: Path) -> None:
    """Reclaim a machine; what its owner's program saved at last, in its home, is stored."""
    testbed.cloud.interrupt(machine, notice_seconds=45)
    testbed.cloud.wait_for_state(machine, "terminated")
    newest = saved(testbed, prefix)
    assert newest is not None
    assert "asked to stop: saved step" in (home / "out").read_text()
    stored = testbed.clients.get("s3").get_object(
        Bucket=testbed.deployment.bucket, Key=f"{prefix}/{newest['checkpoint']}/state.bin"
    )
    assert stored["Body"].read() == (home / "checkpoints/state.bin").read_bytes()


def launch_foreign(testbed: Testbed, name: str, *, market: str) -> tuple[str, str]:
    """Launch a machine without our user data, tags and policy; return it and its role."""
    get = testbed.clients.get
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ec2.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    iam = get("iam")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    agent_only = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["ssm:UpdateInstanceInformation", "ssmmessages:*", "ec2messages:*"],
                "Resource": "*",
            }
        ],
    }
    iam.put_role_policy(RoleName=name, PolicyName="ssm", PolicyDocument=json.dumps(agent_only))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    ec2 = get("ec2")
    subnet = next(iter(testbed.deployment.subnets.values()))
    template = ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": "ami-0123456789abcdef0",
            "InstanceType": "m5.large",
            "IamInstanceProfile": {"Name": name},
        },
    )["LaunchTemplate"]["LaunchTemplateId"]
    fleet = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "$Latest"},
                "Overrides": [{"InstanceType": "m5.large", "SubnetId": subnet}],
            }
        ],
        TargetCapacitySpecification={
            "TotalTargetCapacity": 1,
            "DefaultTargetCapacityType": market,
        },
    )
    (machine,) = fleet["Instances"][0]["InstanceIds"]
    return machine, name


def test_a_foreign_machine_is_refused_until_its_role_suffices_and_outlives_its_run(
    testbed: Testbed, runctl: Program, new_name, foreign_machine
):
    machine, role = foreign_machine
    run_id = new_name()
    words = [
        "aws", "train", "--detach", "--name", run_id, machine,
        TRAINER, "--steps", "5", "--step-seconds", "0.05",
    ]  # fmt: skip
    refused = runctl(*words, code=3)
    assert f"--policy-arn {testbed.deployment.instance_policy}" in refused
    assert "not launched by runctl" in runctl("aws", "terminate", "--yes", machine, code=2)

    # By now it is tagged; a caller who starts runs without `runctl` is told at once as well.
    code = testbed.upload_project({"train.py": "print('never')"})
    other = new_name()
    testbed.start({"code": code, "script": "train.py", "instance_id": machine}, name=other)
    ended = testbed.wait_for_training_completion(other)
    assert ended.status == "FAILED", testbed.story(other)
    assert f"{machine} cannot run an attempt" in ended.cause
    assert "needs the policy that the deployment exports" in ended.cause

    testbed.clients.get("iam").attach_role_policy(
        RoleName=role, PolicyArn=testbed.deployment.instance_policy
    )
    runctl(*words)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.output["status"] == "completed", testbed.story(run_id)
    (attempt,) = testbed.attempts(run_id)
    assert attempt.instance_ids == (machine,)
    assert testbed.cloud.instance(machine)["state"] == "running"


def test_an_execution_alone_starts_nothing_on_a_machine_that_is_no_longer_lent(
    testbed: Testbed, runctl: Program, new_name
):
    """Whoever may start executions, and nothing else, cannot lend a machine to themselves."""
    machine = json.loads(
        runctl("--json", "aws", "create", "--instance-type", "m5.large", "--keep-alive", "1")
    )["instance_id"]
    code = testbed.upload_project({"train.py": "print('never')"})
    ec2 = testbed.clients.get("ec2")
    expired = "deployment=runctl until=2020-01-01T00:00:00Z owner=ada"
    for value, message in (("", "is not lent"), ("yes", "without an end"), (expired, "lent until")):
        runctl("aws", "lend", machine, "--end")
        if value:
            ec2.create_tags(Resources=[machine], Tags=[{"Key": EXISTING_TAG, "Value": value}])
        run_id = new_name()
        testbed.start({"code": code, "script": "train.py", "instance_id": machine}, name=run_id)
        ended = testbed.wait_for_training_completion(run_id)
        assert ended.status == "FAILED", testbed.story(run_id)
        assert message in ended.cause
        assert f"runctl aws lend {machine}" in ended.cause
    root = Path(testbed.cloud.instance(machine)["root"])
    assert not list(root.glob("var/lib/runctl/**/train.py"))
    testbed.clients.get("lambda").invoke(FunctionName="runctl-reconcile", Payload=b"{}")
    assert EXISTING_TAG not in testbed.cloud.instance(machine)["tags"]
    assert "no instance is lent" in runctl("aws", "lend")
