"""The adapters of S3, Step Functions, SSM, logs and prices."""

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws import commands
from runctl.aws.clients import Clients, Connection
from runctl.aws.commands import SsmCommands
from runctl.aws.deployment import read_deployment
from runctl.aws.logs import LogReader
from runctl.aws.notices import SnsNotices
from runctl.aws.objects import S3Objects
from runctl.aws.prices import Ec2Prices
from runctl.aws.workflow import StepFunctions
from runctl.model.errors import InvalidRequestError, NotFoundError, RefusedError, TransientError
from runctl.model.pool import Pool

COMMAND = "01234567-89ab-cdef-0123-456789abcdef"
MACHINE = {
    "Comment": "waits",
    "StartAt": "Wait",
    "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}},
}


@pytest.fixture
def bucket():
    client = boto3.client("s3")
    client.create_bucket(Bucket="here")
    return client


def test_an_existing_object_has_no_problem(bucket):
    bucket.put_object(Bucket="here", Key="a/b.tar.gz", Body=b"x")
    objects = S3Objects(bucket, bucket="here")
    assert objects.problem_with("s3://here/a/b.tar.gz") is None
    assert objects.uri("a/b.tar.gz") == "s3://here/a/b.tar.gz"


def test_a_missing_object_or_bucket_is_reported(bucket):
    objects = S3Objects(bucket, bucket="here")
    assert "does not exist; upload it" in objects.problem_with("s3://here/none.tar.gz")
    assert "no bucket nowhere" in objects.problem_with("s3://nowhere/none.tar.gz")


def test_a_prefix_that_runs_can_write_has_no_problem_and_stays_empty(bucket):
    objects = S3Objects(bucket, bucket="here")
    with Stubber(bucket) as stubber:
        # The order of S3: first the permission, then the condition.
        stubber.add_client_error("put_object", "NoSuchKey", http_status_code=404)
        assert objects.problem_with_writing("s3://there/results/") is None
        stubber.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
        assert objects.problem_with_writing("s3://here/outputs/results/") is None


def test_a_prefix_that_runs_cannot_write_is_reported_with_the_remedy(bucket):
    objects = S3Objects(bucket, bucket="here")
    problem = objects.problem_with_writing("s3://here/runs/lm/")
    assert "the deployment's own bucket; choose s3://here/outputs/…/" in problem
    assert "no bucket nowhere" in objects.problem_with_writing("s3://nowhere/results/")
    with Stubber(bucket) as stubber:
        stubber.add_client_error("put_object", "AccessDenied", http_status_code=403)
        problem = objects.problem_with_writing("s3://there/results/")
    assert "`writable_buckets` and deploy again" in problem


def test_a_prefix_for_results_is_judged_without_writing(bucket):
    objects = S3Objects(bucket, bucket="here")
    assert objects.problem_with_target("s3://here/outputs/results/") is None
    assert "choose s3://here/outputs/…/" in objects.problem_with_target("s3://here/runs/lm/")
    assert "no bucket nowhere" in objects.problem_with_target("s3://nowhere/results/")


def test_a_bucket_in_another_region_is_reported_with_both_regions(bucket):
    there = boto3.client("s3", region_name="eu-west-1")
    there.create_bucket(
        Bucket="there", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    there.put_object(Bucket="there", Key="a.tar.gz", Body=b"x")
    problem = S3Objects(bucket, bucket="here").problem_with("s3://there/a.tar.gz")
    assert "is in eu-west-1, this deployment in us-east-1; copy the object to here" in problem
    problem = S3Objects(bucket, bucket="here").problem_with_target("s3://there/results/")
    assert "is in eu-west-1, this deployment in us-east-1; choose a bucket of this" in problem


def test_a_forbidden_object_is_reported_with_the_remedy(bucket):
    with Stubber(bucket) as stub:
        stub.add_client_error("head_bucket", "403", http_status_code=403)
        stub.add_client_error("head_object", "403", http_status_code=403)
        problem = S3Objects(bucket, bucket="here").problem_with("s3://theirs/a.tar.gz")
    assert "readable_buckets" in problem


def test_a_bucket_that_may_not_be_listed_can_still_be_read(bucket):
    with Stubber(bucket) as stub:
        stub.add_client_error("head_bucket", "403", http_status_code=403)
        stub.add_response("head_object", {})
        assert S3Objects(bucket, bucket="here").problem_with("s3://theirs/a.tar.gz") is None


def test_a_throttling_s3_is_not_a_problem_of_the_request(bucket):
    with Stubber(bucket) as stub:
        stub.add_client_error("head_object", "SlowDown", http_status_code=503)
        with pytest.raises(TransientError):
            S3Objects(bucket, bucket="here").problem_with("s3://here/a.tar.gz")


def test_an_archive_is_uploaded_once_and_its_progress_adds_up(bucket, tmp_path):
    archive = tmp_path / "code.tar.gz"
    archive.write_bytes(b"x" * 100_000)
    sent: list[int] = []
    objects = S3Objects(bucket, bucket="here")
    assert objects.put_if_absent("code/a.tar.gz", archive, progress=sent.append)
    assert not objects.put_if_absent("code/a.tar.gz", archive, progress=sent.append)
    assert sum(sent) == 100_000
    assert bucket.get_object(Bucket="here", Key="code/a.tar.gz")["Body"].read() == b"x" * 100_000


def test_an_upload_to_a_bucket_that_was_removed_names_the_remedy(tmp_path):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(b"x")
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_client_error("head_object", "404", http_status_code=404)
        stub.add_client_error("put_object", "NoSuchBucket", http_status_code=404)
        with pytest.raises(NotFoundError, match="cdk deploy"):
            S3Objects(client, bucket="here").put_if_absent("code/a.tar.gz", archive)


@pytest.fixture
def workflow():
    client = boto3.client("stepfunctions")
    arn = client.create_state_machine(
        name="runctl-train",
        definition=json.dumps(MACHINE),
        roleArn="arn:aws:iam::123456789012:role/any",
    )["stateMachineArn"]
    return StepFunctions(client, state_machine_arn=arn)


def test_a_run_is_started_found_and_stopped(workflow):
    arn = workflow.start_run("run-1", {"command": ["train"]})
    assert arn == workflow.execution_arn("run-1")
    assert workflow.is_running(arn)
    workflow.stop_run(arn, cause="enough")
    workflow.stop_run(arn, cause="enough")
    execution = workflow.find_execution(arn)
    assert (execution.name, execution.status, execution.is_running) == ("run-1", "ABORTED", False)
    assert not workflow.is_running(arn)
    assert workflow.status_of(arn) == "ABORTED"


def test_a_taken_name_is_reported(workflow):
    workflow.start_run("run-1", {"command": ["train"]})
    with pytest.raises(InvalidRequestError, match="name: 'run-1' is taken"):
        workflow.start_run("run-1", {"command": ["other"]})


def test_an_execution_that_does_not_exist_does_not_run(workflow):
    arn = workflow.execution_arn("none")
    assert workflow.find_execution(arn) is None
    assert workflow.status_of(arn) == ""
    assert not workflow.is_running(arn)
    with pytest.raises(NotFoundError):
        workflow.stop_run(arn, cause="enough")


def test_starting_without_a_deployment_is_reported():
    client = boto3.client("stepfunctions")
    arn = "arn:aws:states:us-east-1:123456789012:stateMachine:runctl-train"
    with Stubber(client) as stub:
        stub.add_client_error("start_execution", "StateMachineDoesNotExist")
        with pytest.raises(NotFoundError, match="cdk deploy"):
            StepFunctions(client, state_machine_arn=arn).start_run("run-1", {})


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_spent_token_is_an_answer(code):
    client = boto3.client("stepfunctions")
    with Stubber(client) as stub:
        stub.add_client_error("send_task_success", code)
        assert not StepFunctions(client).report("token", {"outcome": {}})


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_heartbeat_with_a_spent_token_is_not_accepted(code):
    client = boto3.client("stepfunctions")
    with Stubber(client) as stub:
        stub.add_response("send_task_heartbeat", {}, {"taskToken": "token"})
        stub.add_client_error("send_task_heartbeat", code)
        stub.add_client_error("send_task_heartbeat", "ThrottlingException")
        assert StepFunctions(client).beat("token")
        assert not StepFunctions(client).beat("token")
        with pytest.raises(TransientError):
            StepFunctions(client).beat("token")


def test_a_report_is_sent_as_json():
    client = boto3.client("stepfunctions")
    with Stubber(client) as stub:
        expected = {"taskToken": "token", "output": '{"outcome": {"kind": "lost"}}'}
        stub.add_response("send_task_success", {}, expected)
        assert StepFunctions(client).report("token", {"outcome": {"kind": "lost"}})


def test_a_command_reaches_the_agent_by_its_document():
    client = boto3.client("ssm")
    with Stubber(client) as stub:
        stub.add_response(
            "send_command",
            {"Command": {"CommandId": COMMAND}},
            {
                "InstanceIds": ["i-1"],
                "DocumentName": "runctl-agent",
                "Parameters": {"action": ["drain"]},
                "TimeoutSeconds": 30,
            },
        )
        assert SsmCommands(client, document="runctl-agent").send("i-1", "drain")


@pytest.fixture
def starting(monkeypatch):
    """Start the agent of i-1, with these responses of SSM about its progress."""
    monkeypatch.setattr(commands, "LOOK_EVERY", timedelta(0))
    client = boto3.client("ssm")

    def start(*answers: dict | str) -> bool:
        with Stubber(client) as stub:
            stub.add_response("send_command", {"Command": {"CommandId": COMMAND}})
            for answer in answers:
                if isinstance(answer, str):
                    stub.add_client_error("get_command_invocation", answer)
                else:
                    asked = {"CommandId": COMMAND, "InstanceId": "i-1"}
                    stub.add_response("get_command_invocation", answer, asked)
            started = SsmCommands(client, document="", start_document="runctl-start").start(
                "i-1", run_id="r", attempt=1
            )
            stub.assert_no_pending_responses()
        return started

    return start


def test_a_start_is_over_when_ssm_says_so(starting):
    under_way = [{"Status": "Pending"}, {"Status": "InProgress"}]
    assert starting("InvocationDoesNotExist", *under_way, {"Status": "Success"})
    assert starting("ThrottlingException", {"Status": "Success"})


def test_an_agent_that_cannot_start_is_reported_with_its_message(starting):
    words = "the role of this instance lacks dynamodb:GetItem on the table t"
    with pytest.raises(RefusedError, match=f"cannot run an attempt: {words}; .*needs the policy"):
        starting({"Status": "Failed", "StandardErrorContent": f"{words}\n"})


def test_a_slow_start_counts_as_a_start(starting, monkeypatch):
    monkeypatch.setattr(commands, "STARTED_WITHIN", timedelta(0))
    assert starting()


@pytest.mark.parametrize("code", ["InvalidInstanceId", "AccessDeniedException"])
def test_an_agent_that_has_not_registered_is_an_answer(code):
    # SSM knows no tags of an unknown instance, and the permission requires a tag.
    client = boto3.client("ssm")
    agents = SsmCommands(client, document="runctl-agent")
    with Stubber(client) as stub:
        stub.add_client_error("send_command", code)
        assert not agents.send("i-1", "drain")
        stub.add_client_error("send_command", code)
        assert not agents.start("i-1", run_id="r", attempt=1)


def test_any_other_refusal_of_a_command_is_an_error():
    client = boto3.client("ssm")
    with Stubber(client) as stub:
        stub.add_client_error("send_command", "ExpiredTokenException")
        with pytest.raises(RefusedError, match="credentials"):
            SsmCommands(client, document="runctl-agent").send("i-1", "drain")


def test_a_message_reaches_the_subscribers():
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    topic = sns.create_topic(Name="runctl-events")["TopicArn"]
    queue = sqs.create_queue(QueueName="mine")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:123456789012:mine"
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    SnsNotices(sns, topic_arn=topic).publish(subject="run a completed", body="step: 4\n")
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    notification = json.loads(message["Body"])
    assert (notification["Subject"], notification["Message"]) == ("run a completed", "step: 4\n")


@pytest.mark.parametrize(
    ("code", "meaning"),
    [("Throttling", TransientError), ("AuthorizationError", RefusedError)],
)
def test_a_message_that_sns_refuses_raises_the_matching_error(code, meaning):
    client = boto3.client("sns")
    with Stubber(client) as stub:
        stub.add_client_error("publish", code)
        with pytest.raises(meaning):
            SnsNotices(client, topic_arn="arn:aws:sns:us-east-1:1:t").publish(subject="a", body="b")


DEPLOYMENT = {
    "version": "0.1.0",
    "region": "us-east-1",
    "account": "123456789012",
    "bucket": "b",
    "table": "t",
    "state_machine_arn": "arn",
    "log_group": "/runctl/trainer",
    "topic_arn": "arn",
    "command_document": "runctl-agent",
    "launch_templates": {"x86_cpu": "lt-1"},
    "zones": ["us-east-1a"],
}


def put_deployment(**changes):
    client = boto3.client("ssm")
    value = json.dumps({**DEPLOYMENT, **changes})
    client.put_parameter(Name="/runctl/deployment", Value=value, Type="String")
    return client


def test_a_deployment_is_read_and_fields_of_a_newer_one_are_ignored():
    deployment = read_deployment(put_deployment(added_later=1))
    assert (deployment.bucket, deployment.zones) == ("b", ("us-east-1a",))


def test_a_missing_deployment_is_reported_with_the_remedy():
    with pytest.raises(NotFoundError, match=r"nothing is deployed in us-east-1.*cdk deploy"):
        read_deployment(boto3.client("ssm"))


def test_a_deployment_that_is_too_old_is_reported_with_the_missing_field():
    client = boto3.client("ssm")
    old = json.dumps({key: value for key, value in DEPLOYMENT.items() if key != "zones"})
    client.put_parameter(Name="/runctl/deployment", Value=old, Type="String")
    with pytest.raises(NotFoundError, match=r"too old \(no zones\)"):
        read_deployment(client)


def test_log_lines_are_read_once_and_in_order():
    client = boto3.client("logs")
    client.create_log_group(logGroupName="/runctl/trainer")
    reader = LogReader(client, group="/runctl/trainer")
    assert reader.read("run-1/0001") == ([], "")
    client.create_log_stream(logGroupName="/runctl/trainer", logStreamName="run-1/0001")
    now = datetime.now(timezone.utc).replace(microsecond=0)

    def say(*texts):
        events = [{"timestamp": int(now.timestamp() * 1000), "message": text} for text in texts]
        client.put_log_events(
            logGroupName="/runctl/trainer", logStreamName="run-1/0001", logEvents=events
        )

    say("one", "two")
    lines, position = reader.read("run-1/0001")
    assert [(line.text, line.at) for line in lines] == [("one", now), ("two", now)]
    say("three")
    lines, position = reader.read("run-1/0001", position=position)
    assert [line.text for line in lines] == ["three"]
    assert reader.read("run-1/0001", position=position) == ([], position)
    assert reader.read("run-1/0001", since=now + timedelta(seconds=1))[0] == []


def test_the_price_of_a_spot_pool_is_the_newest_and_others_have_none():
    client = boto3.client("ec2")
    now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    spot, elsewhere = (Pool("m5.large", f"us-east-1{zone}", "spot") for zone in "ab")

    def row(price, hours):
        return {
            "SpotPrice": price,
            "Timestamp": now - timedelta(hours=hours),
            "InstanceType": "m5.large",
            "AvailabilityZone": "us-east-1a",
        }

    with Stubber(client) as stub:
        stub.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": [row("0.05", 1), row("0.04", 9)]},
            {
                "InstanceTypes": ["m5.large"],
                "ProductDescriptions": ["Linux/UNIX"],
                "StartTime": now,
            },
        )
        prices = Ec2Prices(client)
        assert prices.current([spot, elsewhere], now=now) == {spot: Decimal("0.05")}
        assert prices.current([Pool("m5.large", "us-east-1a", "on-demand")], now=now) == {}


def test_clients_are_made_once_with_limits_and_the_given_connection():
    clients = Clients(
        Connection(
            region="eu-west-1", endpoint_url="http://127.0.0.1:1", access_key="a", secret_key="b"
        )
    )
    client = clients.get("dynamodb")
    assert client is clients.get("dynamodb")
    assert (clients.region, client.meta.endpoint_url) == ("eu-west-1", "http://127.0.0.1:1")
    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (5, 20)
    assert config.retries == {"mode": "standard", "total_max_attempts": 5}
    assert "secret" not in repr(Connection(secret_key="secret"))


def test_an_unknown_profile_is_reported():
    with pytest.raises(RefusedError, match="--profile"):
        Clients(Connection(profile="nobody")).get("s3")
