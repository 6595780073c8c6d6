"""`runctl aws create`, `terminate`, `spot-monitor`, and `train` on an existing instance."""

import json

import boto3
import pytest

from runctl.aws.fleet import Ec2Fleet
from runctl.aws.fleet_requests import LaunchTemplate
from runctl.aws.instances import ExistingInstances, creation_request
from runctl.cli.commands.aws import machines
from runctl.model.identity import DEPLOYMENT_TAG, EXISTING_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.outcome import OutcomeKind
from runctl.model.pool import MachineKind, Pool
from runctl.model.run import Existing
from tests.cli.deployed import now

NOBODY = "i-0123456789abcdef0"


@pytest.fixture
def state_of(deployed):
    def check(instance_id: str) -> str:
        answer = deployed.clients.get("ec2").describe_instances(InstanceIds=[instance_id])
        return answer["Reservations"][0]["Instances"][0]["State"]["Name"]

    return check


def busy(deployed, instance_id: str) -> str:
    run = deployed.begin("mine")
    deployed.ledger.open_attempt("mine", 1, launch_try=1, source=Existing(instance_id), now=now())
    deployed.ledger.record_existing_instance(
        "mine", 1, instance_id=instance_id, pool="m5.large/us-east-1a/spot", instead_of=None,
        now=now(),
    )  # fmt: skip
    return run.run_id


class TestTerminate:
    def test_an_instance_of_runctl_is_terminated_and_again_is_not_an_error(
        self, runctl, machine, state_of
    ):
        ours = machine(**{KEEP_ALIVE_TAG: "2030-01-01T00:00:00Z"})
        assert runctl("aws", "terminate", "--yes", ours).code == 0
        assert state_of(ours) in {"shutting-down", "terminated"}
        assert runctl("aws", "terminate", "--yes", ours).code == 0

    def test_an_instance_that_runctl_did_not_launch_is_refused_without_force(
        self, runctl, machine, state_of
    ):
        theirs = machine()
        done = runctl("aws", "terminate", "--yes", theirs)
        assert done.code == 2
        assert "--force" in done.stderr
        assert state_of(theirs) == "running"
        assert runctl("aws", "terminate", "--yes", "--force", theirs).code == 0

    def test_an_instance_of_another_deployment_is_refused_with_its_name(
        self, runctl, machine, state_of
    ):
        theirs = machine(**{RUN_TAG: "mine", DEPLOYMENT_TAG: "second"})
        done = runctl("aws", "terminate", "--yes", theirs)
        assert done.code == 2
        assert "RUNCTL_DEPLOYMENT=second" in done.stderr
        assert state_of(theirs) == "running"

    def test_an_instance_in_use_is_refused_with_its_run(self, runctl, deployed, machine, state_of):
        ours = machine(**{KEEP_ALIVE_TAG: "2030-01-01T00:00:00Z"})
        busy(deployed, ours)
        done = runctl("aws", "terminate", "--yes", ours)
        assert done.code == 2
        assert "runctl stop mine" in done.stderr
        assert state_of(ours) == "running"
        deployed.end_attempt("mine", 1, OutcomeKind.COMPLETED)
        assert runctl("aws", "terminate", "--yes", ours).code == 0

    def test_losing_a_free_hour_is_warned_of(self, runctl, deployed, machine):
        ours = machine(**{RUN_TAG: "mine"})
        busy(deployed, ours)
        deployed.notice("mine", 1)
        done = runctl("aws", "terminate", "--yes", "--force", ours)
        assert done.code == 0
        assert "is free of charge" in done.stderr

    def test_confirmation_needs_a_terminal(self, runctl, machine, state_of):
        ours = machine(**{KEEP_ALIVE_TAG: "2030-01-01T00:00:00Z"})
        done = runctl("aws", "terminate", ours)
        assert done.code == 2
        assert "--yes" in done.stderr
        assert state_of(ours) == "running"


class TestTrainOnAMachine:
    def test_an_unknown_instance_is_refused(self, runctl, deployed, project, monkeypatch):
        monkeypatch.setattr(machines, "KNOWN_WITHIN", machines.timedelta(0))
        done = runctl("aws", "train", "--detach", NOBODY, "train.py")
        assert done.code == 4
        assert f"{NOBODY} does not exist" in done.stderr
        assert deployed.executions() == []

    def test_an_instance_in_use_is_refused_before_anything_is_uploaded(
        self, runctl, deployed, project, machine
    ):
        theirs = machine()
        busy(deployed, theirs)
        done = runctl("aws", "train", "--detach", theirs, "train.py")
        assert done.code == 2
        assert "attempt 1 of mine" in done.stderr
        assert deployed.objects() == []

    def test_an_instance_that_never_registers_is_explained(
        self, runctl, deployed, project, machine, monkeypatch
    ):
        theirs = machine()
        monkeypatch.setattr(ExistingInstances, "is_registered", lambda *_: False)
        monkeypatch.setattr(machines, "REGISTERED_WITHIN", machines.timedelta(0))
        done = runctl("aws", "train", "--detach", theirs, "train.py")
        assert done.code == 4
        assert "InvalidInstanceId" in done.stderr
        assert "instance profile" in done.stderr
        assert deployed.executions() == []

    def test_an_instance_without_a_script_is_refused(self, runctl, deployed):
        done = runctl("aws", "train", NOBODY)
        assert done.code == 2
        assert "SCRIPT: missing after" in done.stderr

    def test_the_request_of_a_dry_run_names_the_instance(self, runctl, deployed, project):
        done = runctl("--json", "aws", "train", "--dry-run", NOBODY, "train.py", "--epochs", "3")
        assert done.document["request"]["instance_id"] == NOBODY
        assert done.document["request"]["args"] == ["--epochs", "3"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("aws", "create", "--keep-alive", "0"), "--keep-alive"),
        (("aws", "create", "--keep-alive", "9999"), "--keep-alive"),
        (("aws", "create", "--instance-type", "large"), "--instance-type"),
        (("aws", "create", "--output", "yaml"), "--output"),
        (("aws", "spot-monitor", NOBODY), "--upload-to-s3"),
        (("aws", "spot-monitor", NOBODY, "--upload-to-s3", "bucket/x"), "--upload-to-s3"),
        (("aws", "spot-monitor", NOBODY, "--upload-to-s3", "s3://bucket/a'b"), "--upload-to-s3"),
        (
            (
                "aws",
                "spot-monitor",
                NOBODY,
                "--upload-to-s3",
                "s3://bucket",
                "--checkpoint-dir",
                "out",
            ),
            "--checkpoint-dir",
        ),
    ],
)
def test_an_invalid_option_is_refused_by_its_name(runctl, words, expected):
    done = runctl(*words)
    assert done.code == 2
    assert expected in done.stderr


def test_a_created_instance_has_no_run_and_a_tag_with_its_end():
    fleet = Ec2Fleet(
        boto3.client("ec2", region_name="us-east-1"),
        deployment="ours",
        subnets={"us-east-1a": "subnet-1"},
        launch_templates={MachineKind.X86_CPU: LaunchTemplate(template_id="lt-1", version="1")},
    )
    until = now().replace(microsecond=0)
    request = json.loads(
        creation_request(
            fleet, [Pool("m5.large", "us-east-1a", "spot")], token="created-1", name="mine",
            keep_until=until, owner="arn:aws:iam::123456789012:user/ada",
        )
    )  # fmt: skip
    tags = {
        group["ResourceType"]: {tag["Key"]: tag["Value"] for tag in group["Tags"]}
        for group in request["TagSpecifications"]
    }
    assert RUN_TAG not in tags["instance"]
    assert tags["instance"][KEEP_ALIVE_TAG] == f"{until:%Y-%m-%dT%H:%M:%SZ}"
    assert tags["instance"][EXISTING_TAG] == (
        f"deployment=ours until={until:%Y-%m-%dT%H:%M:%SZ} owner=arn:aws:iam::123456789012:user/ada"
    )
    assert tags["fleet"][RUN_TAG] == "created-1"
    assert {tagged[DEPLOYMENT_TAG] for tagged in tags.values()} == {"ours"}
