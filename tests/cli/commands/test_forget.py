"""`runctl forget`: everything that is stored of a run goes, and nothing of any other."""

import pytest

from runctl.aws.clients import Clients
from runctl.model import identity
from runctl.model.image import Image
from runctl.model.outcome import OutcomeKind, RunStatus
from tests.cli.deployed import BUCKET, GROUP, TABLE

OWN, SHARED = f"s3://{BUCKET}/code/own.tar.gz", f"s3://{BUCKET}/code/shared.tar.gz"


@pytest.fixture
def s3(deployed):
    client = deployed.clients.get("s3")
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    for uri in (OWN, SHARED):
        put(client, uri.removeprefix(f"s3://{BUCKET}/"))
    return client


def put(s3, key, body=b"x"):
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def run_to_its_end(deployed, s3, run_id, number=1, *, code=SHARED):
    """Leave everything that a run leaves; `number` makes its instance another than others'."""
    deployed.begin(run_id, code=code)
    deployed.train(run_id, number)
    deployed.commit(run_id, number, 5)
    deployed.say(run_id, number, "step 5")
    deployed.say(run_id, number, "the agent", suffix="-agent")
    key = f"{identity.output_prefix(run_id)}result.txt"
    put(s3, key)
    put(s3, key, b"a later version")
    s3.delete_object(Bucket=BUCKET, Key=f"{identity.output_prefix(run_id)}old.txt")
    put(s3, identity.used_environment_key(run_id, "f" * 64))
    put(s3, identity.current_environment_key("f" * 64, area=run_id))
    deployed.end_attempt(run_id, number, OutcomeKind.COMPLETED)
    deployed.end(run_id, RunStatus.COMPLETED)


def versions(s3):
    """Return the keys of all versions and deletion markers."""
    found = s3.list_object_versions(Bucket=BUCKET)
    entries = (*found.get("Versions", ()), *found.get("DeleteMarkers", ()))
    return sorted(entry["Key"] for entry in entries)


def items(deployed):
    found = deployed.clients.get("dynamodb").scan(TableName=TABLE)["Items"]
    return sorted((item["pk"]["S"], item["sk"]["S"]) for item in found)


def streams(deployed):
    found = deployed.clients.get("logs").describe_log_streams(logGroupName=GROUP)
    return sorted(stream["logStreamName"] for stream in found["logStreams"])


def test_nothing_of_the_run_is_left_and_nothing_of_others_is_gone(deployed, s3, runctl):
    # The names of the other runs begin like that of the run.
    for number, run_id in ((2, "lm-2"), (3, "l")):
        run_to_its_end(deployed, s3, run_id, number)
    before = versions(s3), items(deployed), streams(deployed)
    run_to_its_end(deployed, s3, "lm", code=OWN)
    done = runctl("forget", "lm", "--yes", "--json")
    assert done.code == 0, done.stderr
    without_code = [key for key in before[0] if key != "code/own.tar.gz"]
    assert (versions(s3), items(deployed), streams(deployed)) == (without_code, *before[1:])
    assert done.document["code"] == ["code/own.tar.gz"]
    assert done.document["bytes"] > 1_500_000
    assert runctl("forget", "lm", "--yes").code == 4


def test_code_that_another_run_uses_stays(deployed, s3, runctl):
    run_to_its_end(deployed, s3, "lm")
    run_to_its_end(deployed, s3, "other", 2)
    done = runctl("forget", "lm", "--yes")
    assert "other runs use code/shared.tar.gz, too: it stays" in done.stdout
    assert "code/shared.tar.gz" in versions(s3)
    assert runctl("forget", "other", "--yes").code == 0
    assert "code/shared.tar.gz" not in versions(s3)


def test_an_image_that_was_built_from_the_project_is_named(deployed, s3, runctl):
    deployed.begin("lm", code=OWN, docker={"dockerfile": "Dockerfile"})
    reference = f"registry/runctl@sha256:{'0' * 64}"
    deployed.ledger.record_image("lm", Image(reference=reference, digest=f"sha256:{'0' * 64}"))
    deployed.end("lm", RunStatus.FAILED)
    done = runctl("forget", "lm", "--yes")
    shown = " ".join(done.stdout.split())
    assert f"the image {reference} has the project in it, and stays until no run" in shown
    assert "code/own.tar.gz" not in versions(s3)


def test_a_dry_run_and_a_missing_confirmation_remove_nothing(deployed, s3, runctl):
    run_to_its_end(deployed, s3, "lm", code=OWN)
    before = versions(s3), items(deployed), streams(deployed)
    planned = runctl("forget", "lm", "--dry-run")
    assert planned.stdout.startswith("would remove ")
    unconfirmed = runctl("forget", "lm")
    assert unconfirmed.code == 2
    assert "--yes: required without a terminal" in unconfirmed.stderr
    assert (versions(s3), items(deployed), streams(deployed)) == before


def test_a_removal_that_was_cut_short_is_completed_by_the_next(deployed, s3, runctl, monkeypatch):
    run_to_its_end(deployed, s3, "lm", code=OWN)
    get = Clients.get

    def without_logs(clients, service, **options):
        if service == "logs":
            raise KeyboardInterrupt
        return get(clients, service, **options)

    with monkeypatch.context() as cut:
        cut.setattr(Clients, "get", without_logs)
        assert runctl("forget", "lm", "--yes").code == 130
    assert streams(deployed)
    assert runctl("status", "lm").code == 0
    assert runctl("forget", "lm", "--yes").code == 0
    assert (streams(deployed), items(deployed)) == ([], [])


def test_a_run_that_has_not_ended_stays(deployed, s3, runctl):
    deployed.begin("lm", code=OWN)
    deployed.train("lm", 1)
    refused = runctl("forget", "lm", "--yes")
    assert refused.code == 2
    assert "lm has not ended; end it with `runctl stop lm`" in refused.stderr


def test_a_run_whose_checkpoint_another_one_needs_stays(deployed, s3, runctl):
    run_to_its_end(deployed, s3, "lm")
    newest = deployed.ledger.find_run("lm").newest
    deployed.ledger.pin_checkpoint("lm", newest, by="scores")
    refused = runctl("forget", "lm", "--yes")
    assert refused.code == 2
    assert "checkpoints of lm are needed by scores" in refused.stderr


def test_a_run_whose_instance_still_uploads_stays(deployed, s3, runctl):
    run_to_its_end(deployed, s3, "lm")
    ec2 = deployed.clients.get("ec2")
    tags = [
        {"Key": identity.RUN_TAG, "Value": "lm"},
        {"Key": identity.DEPLOYMENT_TAG, "Value": "runctl"},
    ]
    (instance,) = ec2.run_instances(
        ImageId=ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"]
    refused = runctl("forget", "lm", "--yes")
    assert refused.code == 2
    assert f"its instance {instance['InstanceId']} may still upload" in refused.stderr
