"""`runctl doctor` on a deployment: its output, its changes and its exit codes."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from runctl import __version__
from runctl.aws.account import AwsAccount
from runctl.aws.prices import Ec2Prices
from runctl.model.errors import RefusedError
from runctl.model.identity import part_key
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.pool import Pool
from tests.cli.deployed import BUCKET, Deployed

TAGS = [
    {"Key": "runctl:run-id", "Value": "my-run"},
    {"Key": "runctl:attempt", "Value": "1"},
    {"Key": "runctl:deployment", "Value": "runctl"},
]
# A second deployment in the account, which has a run of the same name.
THEIRS = [*TAGS[:2], {"Key": "runctl:deployment", "Value": "second"}]


class Account:
    """The deployment's account, with leftovers in it."""

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed
        get = deployed.clients.get
        self.ec2, self.s3, self.sqs = get("ec2"), get("s3"), get("sqs")
        deployed.protect_environments()
        vpc = self.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        self.group = self.ec2.create_security_group(
            GroupName="ours", Description="ours", VpcId=vpc
        )["GroupId"]
        self.queue = self.sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
        self.tell_parameter(version=__version__, security_group=self.group, dead_letters=self.queue)

    def tell_parameter(self, **changes: object) -> None:
        ssm = self.deployed.clients.get("ssm")
        held = json.loads(ssm.get_parameter(Name="/runctl/deployment")["Parameter"]["Value"])
        self.deployed.put_parameter(**{**held, **changes})

    def launch(self) -> str:
        image = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        got = self.ec2.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, InstanceType="m5.large",
            SecurityGroupIds=[self.group],
            TagSpecifications=[{"ResourceType": "instance", "Tags": TAGS}],
        )  # fmt: skip
        return got["Instances"][0]["InstanceId"]

    def lose(self) -> None:
        """End the run and its attempt an hour ago, without terminating the instance."""
        self.deployed.begin("my-run")
        self.deployed.train("my-run", 1)
        self.deployed.end_attempt("my-run", 1, OutcomeKind.LOST)
        self.deployed.end("my-run", RunStatus.FAILED, "lost")
        run = self.deployed.ledger.find_run("my-run")
        self.deployed.ledger.record_notified("my-run", end=run.ended_at)
        self.age("ended_at", timedelta(hours=2))

    def age(self, field: str, by: timedelta) -> None:
        """Move the ends of the run and its attempts into the past, which the ledger never does."""
        at = (datetime.now(timezone.utc) - by).isoformat()
        table = self.deployed.clients.get("dynamodb")
        for sk in ("RUN", "ATTEMPT#0001"):
            table.update_item(
                TableName="runctl-ledger",
                Key={"pk": {"S": "RUN#my-run"}, "sk": {"S": sk}},
                UpdateExpression="SET #f = :at, notified_end = :at",
                ExpressionAttributeNames={"#f": field},
                ExpressionAttributeValues={":at": {"S": at}},
            )


@pytest.fixture
def account(deployed: Deployed) -> Account:
    return Account(deployed)


def findings(document: dict) -> dict[str, list[str]]:
    return {
        check["check"]: [finding["name"] for finding in check["findings"]]
        for check in document["checks"]
        if check["findings"]
    }


def state_of(account: Account, instance_id: str) -> str:
    found = account.ec2.describe_instances(InstanceIds=[instance_id])
    return found["Reservations"][0]["Instances"][0]["State"]["Name"]


def test_an_account_without_leftovers_is_reported_as_such(runctl, account):
    done = runctl("doctor")
    assert (done.code, done.stdout) == (0, "no leftovers (11 checks)\n")


def test_leftovers_are_listed_and_nothing_is_changed_without_fix(runctl, account):
    account.lose()
    instance_id = account.launch()
    # moto's instances are launched now; it matters that the run ended long ago.
    looked = runctl("doctor", "--json")
    assert looked.code == 1
    assert findings(looked.document) == {"machines": [instance_id]}
    assert state_of(account, instance_id) == "running"
    expected = runctl("doctor")
    assert expected.code == 1
    assert "not needed by the run my-run" in expected.stdout
    assert "1 found, 0 fixed" in expected.stdout
    assert "runctl doctor --fix" in expected.stdout
    fixed = runctl("doctor", "--fix")
    assert fixed.code == 0
    assert f"machines: {instance_id}: terminate it" in fixed.stderr
    assert "1 found, 1 fixed" in fixed.stdout
    assert state_of(account, instance_id) == "terminated"
    assert runctl("doctor").code == 0


def test_the_document_has_what_was_found_fixed_and_left(runctl, account):
    account.lose()
    instance_id = account.launch()
    account.sqs.send_message(QueueUrl=account.queue, MessageBody="{}")
    done = runctl("doctor", "--fix", "--json")
    assert done.code == 1, "a dead letter takes a person"
    document = done.document
    assert (document["fix"], document["found"], document["fixed"]) == (True, 2, 1)
    (machine,) = (check for check in document["checks"] if check["check"] == "machines")
    (finding,) = machine["findings"]
    assert (finding["name"], finding["fixed"], finding["error"]) == (instance_id, True, "")
    assert finding["run_id"] == "my-run"
    (letters,) = (check for check in document["checks"] if check["check"] == "dead letters")
    assert letters["findings"][0]["why"].startswith("1 events")


def test_another_version_and_an_old_deployment_are_reported(runctl, account):
    account.tell_parameter(version="0.0.1", security_group="", dead_letters="")
    done = runctl("doctor", "--json")
    assert done.code == 1
    assert findings(done.document) == {"deployment": ["version", "parameter"]}
    assert "0.0.1" in done.stdout


def test_a_missing_deployment_has_the_usual_exit_code(runctl, account):
    account.deployed.clients.get("ssm").delete_parameter(Name="/runctl/deployment")
    done = runctl("doctor")
    assert done.code == 4
    assert "/runctl/deployment is missing" in done.stderr


def test_a_refused_check_is_reported_and_is_not_success(runctl, account, monkeypatch):
    def disks(_self):
        raise RefusedError("ec2:DescribeVolumes is missing")

    monkeypatch.setattr(AwsAccount, "disks", disks)
    done = runctl("doctor")
    assert done.code == 3
    assert done.stdout == "volumes could not be examined: ec2:DescribeVolumes is missing\n"
    checks = runctl("doctor", "--json").document["checks"]
    assert [check["problem"] for check in checks if check["problem"]] == [
        "ec2:DescribeVolumes is missing"
    ]


# The resources that the checks find.


@pytest.fixture
def resources(account: Account) -> AwsAccount:
    from runctl.aws.deployment import read_deployment

    clients = account.deployed.clients
    deployment = read_deployment(clients.get("ssm"))
    return AwsAccount(clients, deployment)


def test_tagged_volumes_are_found_and_deleted_once(account, resources):
    made = [
        account.ec2.create_volume(
            AvailabilityZone="us-east-1a",
            Size=50,
            **({"TagSpecifications": [{"ResourceType": "volume", "Tags": tags}]} if tags else {}),
        )["VolumeId"]
        for tags in (TAGS, [], THEIRS)
    ]
    (disk,) = resources.disks()
    assert (disk.volume_id, disk.run_id, disk.attempt) == (made[0], "my-run", 1)
    assert (disk.state, disk.size_gib) == ("available", 50)
    resources.delete_disk(disk.volume_id)
    resources.delete_disk(disk.volume_id)
    assert resources.disks() == []


def test_unfinished_uploads_are_found_and_aborted_once(account, resources):
    key = "runs/my-run/outputs/model.pt"
    begun = account.s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    (upload,) = resources.uploads()
    assert (upload.key, upload.upload_id, upload.run_id) == (key, begun, "my-run")
    resources.abort_upload(upload)
    resources.abort_upload(upload)
    assert resources.uploads() == []


def test_runs_with_stored_objects_are_found(account, resources):
    for run_id in ("my-run", "other"):
        key = part_key(run_id, "a" * 64)
        account.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    account.s3.put_object(Bucket=BUCKET, Key="code/0.tar.gz", Body=b"x")
    assert resources.stored_runs() == ["my-run", "other"]
    (part,) = resources.checkpoints("other").parts()
    assert part.sha256 == "a" * 64


def test_dead_letters_are_counted(account, resources):
    assert resources.dead_letters() == 0
    account.sqs.send_message(QueueUrl=account.queue, MessageBody="{}")
    assert resources.dead_letters() == 1


def test_only_spot_prices_are_looked_up(account):
    prices = Ec2Prices(account.deployed.clients.get("ec2"))
    spot, on_demand = (Pool("m5.large", "us-east-1a", market) for market in ("spot", "on-demand"))
    assert set(prices.current([on_demand, spot], now=datetime.now(timezone.utc))) == {spot}
