"""DescribeInstanceStatus: what counts as a failing check, and ids that EC2 does not know."""

from datetime import datetime, timezone

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.fleet import Ec2Fleet
from runctl.model.errors import RefusedError, TransientError
from runctl.model.machine import MachineStatus
from runctl.model.maintenance import ScheduledEvent

SINCE = datetime(2030, 1, 1, 11, 50, tzinfo=timezone.utc)
OK = {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}
FAILED = {
    "Status": "impaired",
    "Details": [{"Name": "reachability", "Status": "failed", "ImpairedSince": SINCE}],
}


@pytest.fixture
def ec2():
    client = boto3.client("ec2")
    with Stubber(client) as stub:
        yield stub, Ec2Fleet(client, deployment="runctl", subnets={}, launch_templates={})
        stub.assert_no_pending_responses()


def answer(stub, ids, *statuses):
    stub.add_response(
        "describe_instance_status", {"InstanceStatuses": list(statuses)}, {"InstanceIds": ids}
    )


def unknown(stub, ids, code="InvalidInstanceID.NotFound"):
    stub.add_client_error("describe_instance_status", code, expected_params={"InstanceIds": ids})


def status(instance_id, **fields):
    return {"InstanceId": instance_id, "SystemStatus": OK, "InstanceStatus": OK, **fields}


def test_failing_checks_are_returned_with_the_time_they_began(ec2):
    stub, fleet = ec2
    event = {
        "InstanceEventId": "instance-event-1",
        "Code": "instance-retirement",
        "Description": "The instance is running on degraded hardware",
        "NotBefore": SINCE,
    }
    over = {**event, "Description": "[Completed] The instance is running on degraded hardware"}
    answer(
        stub,
        ["i-1", "i-2"],
        status("i-1", SystemStatus=FAILED, AttachedEbsStatus={"Status": "impaired"}),
        status("i-2", Events=[event, over]),
    )
    first, second = fleet.statuses(["i-1", "i-2"])
    assert first == MachineStatus(
        instance_id="i-1", impaired={"system": SINCE, "attached EBS": None}
    )
    scheduled = ScheduledEvent(
        event_id="instance-event-1", code="instance-retirement", not_before=SINCE
    )
    assert second == MachineStatus(instance_id="i-2", events=(scheduled,))


@pytest.mark.parametrize("word", ["insufficient-data", "initializing", "not-applicable"])
def test_a_check_without_data_does_not_count_as_failing(ec2, word):
    stub, fleet = ec2
    answer(stub, ["i-1"], status("i-1", SystemStatus={"Status": word}))
    assert fleet.statuses(["i-1"]) == [MachineStatus(instance_id="i-1")]


def test_an_id_that_ec2_does_not_know_does_not_affect_the_others(ec2):
    stub, fleet = ec2
    ids = ["i-1", "i-2", "i-3"]
    unknown(stub, ids)
    answer(stub, ["i-1"], status("i-1"))
    unknown(stub, ["i-2", "i-3"], "InvalidInstanceID.Malformed")
    unknown(stub, ["i-2"])
    answer(stub, ["i-3"], status("i-3"))
    assert [known.instance_id for known in fleet.statuses(ids)] == ["i-1", "i-3"]


def test_status_checks_are_requested_for_a_hundred_instances_at_a_time(ec2):
    stub, fleet = ec2
    ids = [f"i-{number}" for number in range(150)]
    answer(stub, ids[:100])
    answer(stub, ids[100:])
    assert fleet.statuses(ids) == []


@pytest.mark.parametrize(
    ("code", "error"),
    [("RequestLimitExceeded", TransientError), ("UnauthorizedOperation", RefusedError)],
)
def test_a_refusal_is_translated_into_one_of_our_errors(ec2, code, error):
    stub, fleet = ec2
    stub.add_client_error("describe_instance_status", code)
    with pytest.raises(error):
        fleet.statuses(["i-1"])
