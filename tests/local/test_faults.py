"""Reservations that end, failing status checks and maintenance, in the shapes of AWS."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from runctl.local.client import LocalCloudError
from tests.local.clouds import Cloud, eventually
from tests.local.test_instances import LOOP, METADATA, is_alive, pids, text_of

pytestmark = pytest.mark.slow


def status_of(cloud: Cloud, instance_id: str) -> dict:  # type: ignore[type-arg]
    ec2 = cloud.client("ec2")
    (found,) = ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    return dict(found)


def test_end_of_a_reservation_is_an_event_and_nothing_in_the_metadata(cloud: Cloud) -> None:
    read = cloud.queue_for({"source": ["aws.ec2"]})
    script = METADATA + (
        "until [ -e $RUNCTL_ROOT/look ]; do sleep 0.05; done\n"
        "get spot/instance-action > $RUNCTL_ROOT/x.new || echo none > $RUNCTL_ROOT/x.new\n"
        "mv $RUNCTL_ROOT/x.new $RUNCTL_ROOT/x\n"
    )
    instance_id = cloud.launch(script, market="on-demand")
    cloud.admin.wait_for_state(instance_id, "running")
    before = datetime.now(timezone.utc)
    cloud.admin.end_reservation(instance_id, notice_seconds=8)
    (warning,) = eventually(
        lambda: [event for event in read() if "Reservation" in event["detail-type"]]
    )
    assert warning["detail-type"] == "EC2 Capacity Reservation Instance Interruption Warning"
    assert warning["resources"] == [f"arn:aws:ec2:us-east-1:000000000000:instance/{instance_id}"]
    detail = warning["detail"]
    assert (detail["instance-id"], detail["instance-action"]) == (instance_id, "terminate")
    assert detail["azId"].startswith("use1-az")
    at = datetime.fromisoformat(detail["instance-termination-time"].replace("Z", "+00:00"))
    assert before < at + timedelta(seconds=1)
    (cloud.root(instance_id) / "look").touch()
    assert text_of(cloud, instance_id, "x").strip() == "none"
    cloud.admin.wait_for_state(instance_id, "terminated")


def test_a_failing_check_is_described_with_when_it_began(cloud: Cloud) -> None:
    instance_id = cloud.launch()
    cloud.admin.wait_for_state(instance_id, "running")
    fine = status_of(cloud, instance_id)
    passed = {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}
    assert fine["SystemStatus"] == fine["InstanceStatus"] == passed
    assert not fine.get("Events")
    cloud.admin.impair(instance_id, check="system", since_seconds=600)
    summary = status_of(cloud, instance_id)["SystemStatus"]
    assert summary["Status"] == "impaired"
    (detail,) = summary["Details"]
    assert (detail["Name"], detail["Status"]) == ("reachability", "failed")
    assert datetime.now(timezone.utc) - detail["ImpairedSince"] > timedelta(seconds=590)
    assert status_of(cloud, instance_id)["InstanceStatus"] == passed
    found = cloud.client("ec2").describe_instance_status(
        Filters=[{"Name": "system-status.status", "Values": ["impaired"]}]
    )["InstanceStatuses"]
    assert [status["InstanceId"] for status in found] == [instance_id]
    cloud.admin.impair(instance_id, check="system", is_ok=True)
    assert status_of(cloud, instance_id)["SystemStatus"] == passed


def test_a_machine_that_hangs_runs_nothing_and_can_be_terminated(cloud: Cloud) -> None:
    script = f"#!/bin/sh\n{LOOP} & echo $! > $RUNCTL_ROOT/pids; {LOOP}\n"
    instance_id = cloud.launch(script)
    (pid,) = pids(cloud, instance_id, "pids", 1)
    cloud.admin.impair(instance_id, hangs=True)
    state = Path(f"/proc/{pid}/stat")
    eventually(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert not is_alive(pid)


@pytest.mark.parametrize("market", ["spot", "on-demand"])
def test_a_retirement_is_announced_in_two_places_and_ends_the_instance(
    cloud: Cloud, market: str
) -> None:
    script = METADATA + (
        "get events/maintenance/scheduled > $RUNCTL_ROOT/none.new\n"
        "echo >> $RUNCTL_ROOT/none.new; mv $RUNCTL_ROOT/none.new $RUNCTL_ROOT/none\n"
        "until get events/maintenance/scheduled | grep -q Code; do sleep 0.05; done\n"
        "get events/maintenance/scheduled > $RUNCTL_ROOT/due.new\n"
        "echo >> $RUNCTL_ROOT/due.new; mv $RUNCTL_ROOT/due.new $RUNCTL_ROOT/due\n"
    )
    instance_id = cloud.launch(script, market=market)
    assert json.loads(text_of(cloud, instance_id, "none")) == []
    event = cloud.admin.schedule_maintenance(instance_id, in_seconds=6)
    (shown,) = json.loads(text_of(cloud, instance_id, "due"))
    assert shown["Code"] == "instance-retirement"
    assert (shown["EventId"], shown["State"]) == (event["event_id"], "active")
    due = datetime.fromisoformat(event["not_before"])
    assert parsedate_to_datetime(shown["NotBefore"]) == due
    (described,) = status_of(cloud, instance_id)["Events"]
    assert (described["Code"], described["NotBefore"]) == ("instance-retirement", due)
    ended = "terminated" if market == "spot" else "stopped"
    assert cloud.admin.wait_for_state(instance_id, ended)["reason"] == "Server.ScheduledStop"


def test_a_canceled_event_does_not_happen(cloud: Cloud) -> None:
    instance_id = cloud.launch()
    cloud.admin.wait_for_state(instance_id, "running")
    event = cloud.admin.schedule_maintenance(instance_id, code="instance-stop", in_seconds=0.5)
    cloud.admin.cancel_maintenance(instance_id, event["event_id"])
    reboot = cloud.admin.schedule_maintenance(instance_id, code="system-reboot", in_seconds=1)
    cloud.admin.wait_for_event(
        lambda one: (one["instance_id"], one["what"]) == (instance_id, "maintenance-done")
    )
    first, second = status_of(cloud, instance_id)["Events"]
    assert first["Description"].startswith("[Canceled]")
    assert second["InstanceEventId"] == reboot["event_id"]
    assert second["Description"].startswith("[Completed]")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda admin, one: admin.impair(one, check="disk"), "is not one of system, instance, ebs"),
        (lambda admin, one: admin.schedule_maintenance(one, code="x", in_seconds=1), "'x' is not"),
        (lambda admin, one: admin.schedule_maintenance(one, in_seconds=-1), "in_seconds: -1"),
        (lambda admin, one: admin.cancel_maintenance(one, "instance-event-0"), "not a scheduled"),
    ],
)
def test_an_unknown_fault_is_refused(cloud: Cloud, asked, said: str) -> None:  # type: ignore[no-untyped-def]
    instance_id = cloud.launch()
    cloud.admin.wait_for_state(instance_id, "running")
    with pytest.raises(LocalCloudError, match=said):
        asked(cloud.admin, instance_id)


def test_statuses_are_requested_as_on_ec2(cloud: Cloud) -> None:
    """Check that there is no filter by instance, and that an unknown id fails the whole call."""
    instance_id = cloud.launch()
    ec2 = cloud.client("ec2")
    with pytest.raises(ClientError, match="The filter 'instance-id' is invalid"):
        ec2.describe_instance_status(Filters=[{"Name": "instance-id", "Values": [instance_id]}])
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        ec2.describe_instance_status(InstanceIds=[instance_id, "i-0123456789abcdef0"])
    with pytest.raises(ClientError, match="cannot be used"):
        ec2.describe_instance_status(InstanceIds=[instance_id], MaxResults=5)
