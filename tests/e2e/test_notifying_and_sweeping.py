"""The topic and the sweeper, with the roles that the deployment gives them."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.outcome import RunStatus
from runctl.model.request_parsing import parse_request
from runctl.model.run import Run
from tests.e2e.testbed import Stage, wait_for

pytestmark = pytest.mark.e2e

WAITER = "import os, time\ntime.sleep(float(os.environ['SECONDS_TO_WAIT']))\n"


@pytest.fixture(scope="module")
def messages(stage: Stage):
    """Subscribe a queue to the topic; return what arrived for a run."""
    sqs = stage.clients.get("sqs")
    queue = sqs.create_queue(QueueName="told")["QueueUrl"]
    asked = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    arn = asked["Attributes"]["QueueArn"]
    admit = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": stage.deployment.topic_arn}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [admit]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    stage.clients.get("sns").subscribe(
        TopicArn=stage.deployment.topic_arn,
        Protocol="sqs",
        Endpoint=arn,
    )
    seen: list[tuple[str, str]] = []

    def about(run_id):
        for one in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            told = json.loads(one["Body"])
            seen.append((told["Subject"], told["Message"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=one["ReceiptHandle"])
        return [one for one in seen if f" {run_id} " in one[0]]

    return about


def start(stage: Stage, name: str, seconds: float) -> str:
    code = stage.upload_project({"train.py": WAITER})
    env = {"SECONDS_TO_WAIT": str(seconds)}
    return stage.start({"script": "train.py", "code": code, "env": env}, name=name)


def sweep(stage: Stage):
    answer = stage.clients.get("lambda").invoke(FunctionName="runctl-sweep", Payload=b"{}")
    return json.loads(answer["Payload"].read())


def test_the_end_of_a_run_reaches_who_has_subscribed(stage: Stage, messages, new_name):
    run_id = start(stage, new_name(), 0)
    stage.wait_for_training_completion(run_id)
    wait_for(lambda: messages(run_id), f"the message about {run_id}")
    stage.wait_for_no_instance(run_id)
    ((subject, body),) = messages(run_id)
    assert subject == f"run {run_id} completed"
    assert f"outputs: s3://{stage.deployment.bucket}/runs/{run_id}/outputs/\n" in body


def test_a_sweep_ends_what_nobody_hears_of_and_nothing_else(stage: Stage, messages, new_name):
    going_on, lost = start(stage, new_name(), 600), new_name()
    stage.wait_for_launch(going_on, attempt=1)
    stage.ledger.create_run(
        Run(
            run_id=lost,
            request=parse_request({"command": ["train"]}),
            started_at=datetime.now(timezone.utc) - timedelta(hours=1),
            execution=lost,
            execution_arn=stage.workflow.execution_arn(lost),
        )
    )
    swept = sweep(stage)
    assert (swept["cleaned"], swept["terminated"], swept["failed"]) == ([lost], [], [])
    assert swept["machines"] >= 1
    assert stage.run(lost).ended is RunStatus.FAILED
    wait_for(lambda: messages(lost), f"the message about {lost}")
    assert stage.run(going_on).ended is None
    stage.workflow.stop_run(stage.workflow.execution_arn(going_on), cause="seen enough")
    stage.wait_for_no_instance(going_on)
