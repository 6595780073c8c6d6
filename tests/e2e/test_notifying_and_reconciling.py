"""The topic and reconciliation, with the roles that the deployment gives them."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.outcome import RunStatus
from runctl.model.request_parsing import parse_request
from runctl.model.run import Run
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

WAITER = "import os, time\ntime.sleep(float(os.environ['SECONDS_TO_WAIT']))\n"


@pytest.fixture(scope="module")
def messages(testbed: Testbed):
    """Subscribe a queue to the topic; return what has arrived for a run."""
    sqs = testbed.clients.get("sqs")
    queue = sqs.create_queue(QueueName="told")["QueueUrl"]
    asked = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    arn = asked["Attributes"]["QueueArn"]
    admit = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": testbed.deployment.topic_arn}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [admit]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    testbed.clients.get("sns").subscribe(
        TopicArn=testbed.deployment.topic_arn,
        Protocol="sqs",
        Endpoint=arn,
    )
    seen: list[tuple[str, str]] = []

    def about(run_id):
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get(
            "Messages", []
        ):
            told = json.loads(message["Body"])
            seen.append((told["Subject"], told["Message"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return [message for message in seen if f" {run_id} " in message[0]]

    return about


def start(testbed: Testbed, name: str, seconds: float) -> str:
    code = testbed.upload_project({"train.py": WAITER})
    env = {"SECONDS_TO_WAIT": str(seconds)}
    return testbed.start({"script": "train.py", "code": code, "env": env}, name=name)


def reconcile(testbed: Testbed):
    answer = testbed.clients.get("lambda").invoke(FunctionName="runctl-reconcile", Payload=b"{}")
    return json.loads(answer["Payload"].read())


def test_the_end_of_a_run_reaches_the_subscribers(testbed: Testbed, messages, new_name):
    run_id = start(testbed, new_name(), 0)
    testbed.wait_for_training_completion(run_id)
    wait_for(lambda: messages(run_id), f"the message about {run_id}")
    testbed.wait_for_no_instance(run_id)
    ((subject, body),) = messages(run_id)
    assert subject == f"run {run_id} completed"
    assert f"outputs: s3://{testbed.deployment.bucket}/runs/{run_id}/outputs/\n" in body


def test_reconciliation_ends_silent_machines_and_nothing_else(testbed: Testbed, messages, new_name):
    going_on, lost = start(testbed, new_name(), 600), new_name()
    testbed.wait_for_launch(going_on, attempt=1)
    testbed.ledger.create_run(
        Run(
            run_id=lost,
            request=parse_request({"command": ["train"]}),
            started_at=datetime.now(timezone.utc) - timedelta(hours=1),
            execution=lost,
            execution_arn=testbed.workflow.execution_arn(lost),
        )
    )
    done = reconcile(testbed)
    assert (done["cleaned"], done["terminated"], done["failed"]) == ([lost], [], [])
    assert done["machines"] >= 1
    assert testbed.run(lost).ended is RunStatus.FAILED
    wait_for(lambda: messages(lost), f"the message about {lost}")
    assert testbed.run(going_on).ended is None
    testbed.workflow.stop_run(testbed.workflow.execution_arn(going_on), cause="seen enough")
    testbed.wait_for_no_instance(going_on)
