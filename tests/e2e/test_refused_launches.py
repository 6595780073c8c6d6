"""Launches that EC2 refuses: when the run waits, when it ends, and the messages."""

from datetime import datetime, timezone

import pytest

from runctl.model.pool import Pool
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")


@pytest.fixture
def script(testbed: Testbed):
    bucket, key = testbed.deployment.bucket, "code/nothing.py"
    testbed.clients.get("s3").put_object(Bucket=bucket, Key=key, Body=b"print('done')\n")
    yield f"s3://{bucket}/{key}"
    testbed.cloud.reset()


def ends_at_once(testbed: Testbed, run_id: str, request: dict) -> str:
    """Return why a run ended whose first attempt could not be launched."""
    testbed.start(request, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED", testbed.story(run_id)
    assert len(testbed.attempts(run_id)) == 1
    assert testbed.instances(run_id) == []
    run = testbed.run(run_id)
    assert ended.cause == run.reason
    return run.reason


def test_a_quota_of_zero_ends_the_run_and_the_message_explains_how_to_raise_it(
    testbed: Testbed, script, new_name
):
    for code in ("L-3819A6DF", "L-DB2E81BA"):
        testbed.cloud.set_quota(code, 0)
    reason = ends_at_once(
        testbed,
        new_name(),
        {
            "script": script,
            "instance_types": ["g5.2xlarge", "g5.xlarge"],
            "market": "spot-then-on-demand",
        },
    )
    page = "https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/"
    for quota in (
        "L-3819A6DF (All G and VT Spot Instance Requests)",
        "L-DB2E81BA (Running On-Demand G and VT instances)",
    ):
        assert f"quota {quota} is 0 vCPUs in us-east-1, and the run needs 4" in reason
        assert f"{page}{quota[:10]}" in reason


def test_a_run_waits_for_a_quota_that_another_run_uses_up(testbed: Testbed, script, new_name):
    testbed.cloud.set_quota("L-34B43A08", 2)
    holder, run_id = new_name(), new_name()
    request = {"instance_types": ["m5.large"], "market": "spot"}
    testbed.start({**request, "command": ["sleep", "600"]}, name=holder)
    testbed.create_test_spot_instance(holder)
    testbed.start({**request, "script": script}, name=run_id)
    first = wait_for(
        lambda: (tried := testbed.attempts(run_id)) and tried[0].ended, "a first attempt to end"
    )
    assert first.kind.value == "no_capacity"
    assert "is 2 vCPUs in us-east-1, and the run needs 2 vCPUs for m5.large: other" in first.reason
    testbed.aws(
        "stepfunctions", "stop-execution", "--execution-arn", testbed.run(holder).execution_arn
    )
    assert testbed.wait_for_training_completion(run_id).status == "SUCCEEDED", testbed.story(run_id)


def test_a_type_that_no_zone_offers_ends_the_run_and_is_named(testbed: Testbed, script, new_name):
    reason = ends_at_once(
        testbed, new_name(), {"script": script, "instance_types": ["m5x.large", "c5x.large"]}
    )
    assert (
        f"does not offer c5x.large and m5x.large in {', '.join(ZONES[:2])} and {ZONES[2]}" in reason
    )
    assert "misspelled" in reason


def test_a_missing_permission_outranks_a_zone_that_lacks_the_type(
    testbed: Testbed, script, new_name
):
    testbed.cloud.set_capacity("*", error="InvalidFleetConfiguration")
    # No other test uses this type: a pool that is cooling down would not be asked.
    testbed.cloud.set_capacity(f"m5n.large/{ZONES[0]}/spot", error="UnauthorizedOperation")
    reason = ends_at_once(
        testbed, new_name(), {"script": script, "instance_types": ["m5n.large"], "market": "spot"}
    )
    assert "(UnauthorizedOperation)" in reason


def test_throttling_keeps_every_pool_warm(testbed: Testbed, script, new_name):
    testbed.cloud.set_capacity("*", error="RequestLimitExceeded")
    run_id = new_name()
    # Not one of the types that other tests use by default, which may be cooling down.
    request = {"script": script, "instance_types": ["r6i.large"], "market": "spot"}
    testbed.start(request, name=run_id)
    wait_for(lambda: len(testbed.attempts(run_id)) >= 3, "a third attempt")
    pools = [Pool("r6i.large", zone, "spot") for zone in ZONES]
    assert testbed.ledger.cooling_pools(pools, now=datetime.now(timezone.utc)) == {}
    assert "RequestLimitExceeded" in testbed.attempts(run_id)[0].ended.reason
    testbed.cloud.reset()
    assert testbed.wait_for_training_completion(run_id).status == "SUCCEEDED", testbed.story(run_id)
