"""Distributed Maps of the local cloud: children are executions, in batches, with files in S3."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, eventually, unique

pytestmark = pytest.mark.slow

# Records the call, and fails while the item says so and nothing in the bucket forgives it.
FUNCTION = """
import boto3, json, uuid
def handler(event, context):
    s3, item = boto3.client("s3"), event["item"]
    s3.put_object(Bucket=event["bucket"], Key=f"called/{item['n']}/{uuid.uuid4().hex}")
    if item.get("fails"):
        known = s3.list_objects_v2(Bucket=event["bucket"], Prefix="forgiven")
        if not known["KeyCount"]:
            raise ValueError(f"item {item['n']} fails")
    return item["n"] * 2
"""
DISTRIBUTED = {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
READER = "arn:aws:states:::s3:getObject"
WRITER = "arn:aws:states:::s3:putObject"
KEY = {"Bucket": "{% $states.input.bucket %}", "Key": "items.jsonl"}
ITEM = "{% $states.context.Map.Item.Value %}"


class Maps:
    """A bucket, a function, and state machines that map over items."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.bucket = cloud, unique("maps")
        self.sfn, self.s3 = cloud.client("stepfunctions"), cloud.client("s3")
        self.s3.create_bucket(Bucket=self.bucket)
        self.function = cloud.function(FUNCTION)

    def put(self, key: str, text: str) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode())

    def read(self, key: str) -> Any:
        return json.load(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"])

    def called(self) -> dict[int, int]:
        """Return how often the function was called for each item."""
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="called/").get("Contents", [])
        numbers = [int(entry["Key"].split("/")[1]) for entry in found]
        return {number: numbers.count(number) for number in numbers}

    def calling(self) -> dict[str, Any]:
        """Return the states of a child that calls the function."""
        call = {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": self.function, "Payload": "{% $states.input %}"},
            "Output": "{% $states.result.Payload %}",
            "End": True,
        }
        return {"Call": call}

    def machine(self, states: dict[str, Any], *, role: str | None = None, **fields: Any) -> str:
        """Create a state machine with a Distributed Map."""
        processor = {
            "ProcessorConfig": DISTRIBUTED,
            "StartAt": next(iter(states)),
            "States": states,
        }
        state = {"Type": "Map", "Label": "Members", "ItemProcessor": processor, **fields}
        return self.cloud.machine({"Each": {**state, "End": True}}, role=role)

    def run(self, machine: str, data: Any = None) -> dict[str, Any]:
        """Run an execution to its end; its input is the bucket."""
        execution = self.cloud.start(machine, {"bucket": self.bucket, **(data or {})})
        return self.cloud.ended(execution)

    def map_run(self, execution: str) -> dict[str, Any]:
        (listed,) = self.sfn.list_map_runs(executionArn=execution)["mapRuns"]
        described: dict[str, Any] = self.sfn.describe_map_run(mapRunArn=listed["mapRunArn"])
        return described

    def children(self, execution: str) -> list[dict[str, Any]]:
        arn = self.map_run(execution)["mapRunArn"]
        found: list[dict[str, Any]] = self.sfn.list_executions(mapRunArn=arn)["executions"]
        return found

    def kinds(self, execution: str) -> list[str]:
        answer = self.sfn.get_execution_history(executionArn=execution, maxResults=1000)
        return [event["type"] for event in answer["events"]]


@pytest.fixture
def maps(cloud: Cloud) -> Maps:
    return Maps(cloud)


def counted(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def items(count: int, *failing: int) -> list[dict[str, Any]]:
    return [{"n": n, "fails": n in failing} for n in range(count)]


def lines(values: list[Any]) -> str:
    return "".join(f"{json.dumps(value)}\n" for value in values)


SELECTOR = {"bucket": "{% $states.input.bucket %}", "item": ITEM}


def test_forty_items_from_s3_call_a_function_and_their_results_are_files(maps: Maps) -> None:
    maps.put("items.jsonl", lines(items(40)))
    machine = maps.machine(
        maps.calling(),
        ItemReader={
            "Resource": READER,
            "ReaderConfig": {"InputType": "JSONL"},
            "Arguments": KEY,
        },
        ItemSelector=SELECTOR,
        MaxConcurrency="{% 4 + 4 %}",
        ResultWriter={
            "Resource": WRITER,
            "Arguments": {"Bucket": "{% $states.input.bucket %}", "Prefix": "results"},
        },
        Assign={"where": "{% $states.result.ResultWriterDetails.Key %}"},
        Output={"map": "{% $states.result %}"},
    )
    ended = maps.run(machine)
    assert ended["status"] == "SUCCEEDED", ended["cause"]
    run = maps.map_run(ended["executionArn"])
    assert run["status"] == "SUCCEEDED"
    counts = {"succeeded": 40, "total": 40, "resultsWritten": 40}
    assert counted(run["itemCounts"]) == counted(run["executionCounts"]) == counts
    assert run["maxConcurrency"] == 8
    arn = run["mapRunArn"]
    key = f"results/{arn.rpartition(':')[2]}/manifest.json"
    assert json.loads(ended["output"]) == {
        "map": {"MapRunArn": arn, "ResultWriterDetails": {"Bucket": maps.bucket, "Key": key}}
    }

    manifest = maps.read(key)
    assert (manifest["DestinationBucket"], manifest["MapRunArn"]) == (maps.bucket, arn)
    files = manifest["ResultFiles"]
    assert (files["FAILED"], files["PENDING"]) == ([], [])
    (written,) = files["SUCCEEDED"]
    stored = maps.s3.head_object(Bucket=maps.bucket, Key=written["Key"])
    assert stored["ContentLength"] == written["Size"]
    results = maps.read(written["Key"])
    assert [json.loads(result["Output"]) for result in results] == [2 * n for n in range(40)]
    assert json.loads(results[7]["Input"]) == {"bucket": maps.bucket, "item": items(40)[7]}
    child = maps.sfn.describe_execution(executionArn=results[7]["ExecutionArn"])
    assert (child["mapRunArn"], child["status"]) == (arn, "SUCCEEDED")
    assert child["stateMachineArn"] == f"{machine}/Members" == results[7]["StateMachineArn"]
    assert child["redriveStatus"] == "NOT_REDRIVABLE"

    assert maps.called() == dict.fromkeys(range(40), 1)
    assert maps.kinds(ended["executionArn"]) == [
        "ExecutionStarted",
        "MapStateEntered",
        "MapStateStarted",
        "MapRunStarted",
        "MapRunSucceeded",
        "MapStateSucceeded",
        "MapStateExited",
        "ExecutionSucceeded",
    ]
    assert maps.kinds(child["executionArn"])[0] == "ExecutionStarted"
    assert "TaskSucceeded" in maps.kinds(child["executionArn"])


def test_the_context_of_a_child_is_its_own_and_its_batch_has_an_input(maps: Maps) -> None:
    context = {
        "execution": "{% $states.context.Execution.Id %}",
        "machine": "{% $states.context.StateMachine.Id %}",
        "given": "{% $states.input %}",
    }
    machine = maps.machine(
        {"Show": {"Type": "Pass", "Output": context, "End": True}},
        Items="{% [1..7].{'n': $} %}",
        ItemSelector={
            "n": f"{{% {ITEM[3:-3]}.n * 10 %}}",
            "i": "{% $states.context.Map.Item.Index %}",
        },
        ItemBatcher={"MaxItemsPerBatch": 3, "BatchInput": {"of": "{% $states.input.bucket %}"}},
    )
    ended = maps.run(machine)
    shown = json.loads(ended["output"])
    batches = [result["given"]["Items"] for result in shown]
    assert [[item["n"] for item in batch] for batch in batches] == [
        [10, 20, 30],
        [40, 50, 60],
        [70],
    ]
    assert batches[2] == [{"n": 70, "i": 6}]
    assert all(result["given"]["BatchInput"] == {"of": maps.bucket} for result in shown)
    assert {result["machine"] for result in shown} == {f"{machine}/Members"}
    assert {result["execution"] for result in shown} == {
        child["executionArn"] for child in maps.children(ended["executionArn"])
    }
    run = maps.map_run(ended["executionArn"])
    assert (run["itemCounts"]["succeeded"], run["executionCounts"]["succeeded"]) == (7, 3)


def test_a_batch_is_no_larger_than_its_bytes(maps: Maps) -> None:
    machine = maps.machine(
        {"Count": {"Type": "Pass", "Output": "{% $count($states.input.Items) %}", "End": True}},
        Items="{% [1..10].$pad('', 100, 'x') %}",
        ItemBatcher={"MaxInputBytesPerBatch": 450},
    )
    assert json.loads(maps.run(machine)["output"]) == [4, 4, 2]


@pytest.mark.parametrize(
    ("config", "text", "found"),
    [
        ({"InputType": "JSON"}, '[1, {"a": 2}]', [1, {"a": 2}]),
        ({"InputType": "JSON", "ItemsPointer": "/deep/0"}, '{"deep": [[5, 6]]}', [5, 6]),
        ({"InputType": "JSONL", "MaxItems": "{% 1 + 1 %}"}, "1\n2\n3\n", [1, 2]),
        (
            {"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "CSVDelimiter": "PIPE"},
            "\ufeffa|b\n1|2\n3\n",
            [{"a": "1", "b": "2"}, {"a": "3", "b": ""}],
        ),
        (
            {"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a"]},
            "1,2\n",
            [{"a": "1"}],
        ),
        ({"InputType": "JSON"}, '{"a": 1}', "Attempting to map over non-iterable node."),
        ({"InputType": "JSONL"}, "no json", "not JSONL as configured"),
        ({"InputType": "PARQUET"}, "", "InputType PARQUET is not supported"),
    ],
)
def test_items_are_read_as_configured(
    maps: Maps, config: dict[str, Any], text: str, found: Any
) -> None:
    maps.put("items.jsonl", text)
    reader = {"Resource": READER, "ReaderConfig": config, "Arguments": KEY}
    ended = maps.run(maps.machine({"Show": {"Type": "Pass", "End": True}}, ItemReader=reader))
    if ended["status"] == "SUCCEEDED":
        assert json.loads(ended["output"]) == found
    else:
        assert found in ended["cause"]
        assert maps.map_run(ended["executionArn"])["status"] == "FAILED"


def test_objects_are_listed_below_a_prefix(maps: Maps) -> None:
    for name in ("in/a", "in/b", "other"):
        maps.put(name, name)
    reader = {
        "Resource": "arn:aws:states:::s3:listObjectsV2",
        "Arguments": {"Bucket": maps.bucket, "Prefix": "in/"},
    }
    ended = maps.run(maps.machine({"Show": {"Type": "Pass", "End": True}}, ItemReader=reader))
    listed = json.loads(ended["output"])
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [("in/a", 4), ("in/b", 4)]
    assert set(listed[0]) == {"Etag", "Key", "LastModified", "Size", "StorageClass"}


def test_tolerated_failures_are_records_in_the_output(maps: Maps) -> None:
    machine = maps.machine(
        maps.calling(),
        Items="{% $states.input.items %}",
        ItemSelector=SELECTOR,
        ToleratedFailurePercentage="{% $states.input.tolerated %}",
    )
    ended = maps.run(machine, {"items": items(4, 2), "tolerated": 25})
    output = json.loads(ended["output"])
    assert [output[0], output[1], output[3]] == [0, 2, 6]
    assert (output[2]["Status"], output[2]["Error"]) == ("FAILED", "ValueError")
    assert json.loads(output[2]["Input"])["item"]["n"] == 2
    refused = maps.run(machine, {"items": items(4, 2), "tolerated": 24})
    assert refused["error"] == "States.ExceedToleratedFailureThreshold"


def test_too_many_failures_end_the_map_at_once_and_a_redrive_repeats_only_them(
    maps: Maps,
) -> None:
    hold = {
        "Start?": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $states.input.item.n = 1 %}", "Next": "Hold"}],
            "Default": "Call",
        },
        "Hold": {"Type": "Wait", "Seconds": "{% $states.input.hold %}", "Next": "Call"},
        **maps.calling(),
    }
    machine = maps.machine(
        hold,
        Items="{% $states.input.items %}",
        ItemSelector={**SELECTOR, "hold": "{% $states.input.hold %}"},
        MaxConcurrency=2,
        ToleratedFailureCount=1,
        ResultWriter={"Resource": WRITER, "Arguments": {"Bucket": maps.bucket, "Prefix": "r"}},
    )
    # The first is held forever: that the map ends shows that it does not wait for all children.
    ended = maps.run(machine, {"items": items(8, 3, 5), "hold": 6000})
    execution = ended["executionArn"]
    assert ended["error"] == "States.ExceedToleratedFailureThreshold"
    run = maps.map_run(execution)
    first = counted(run["executionCounts"])
    assert first.pop("pending", 0) + first["succeeded"] == 5
    assert (first["failed"], first["aborted"], first["total"]) == (2, 1, 8)
    kinds = maps.kinds(execution)
    assert kinds[-3:] == ["MapRunFailed", "MapStateFailed", "ExecutionFailed"]
    manifest = maps.read(f"r/{run['mapRunArn'].rpartition(':')[2]}/manifest.json")
    failed = maps.read(manifest["ResultFiles"]["FAILED"][0]["Key"])
    assert sorted(record["Status"] for record in failed) == ["ABORTED", "FAILED", "FAILED"]
    failed_child = next(record for record in failed if record["Status"] == "FAILED")
    described = maps.sfn.describe_execution(executionArn=failed_child["ExecutionArn"])
    assert described["redriveStatus"] == "REDRIVABLE_BY_MAP_RUN"
    with pytest.raises(ClientError, match="ExecutionNotRedrivable"):
        maps.sfn.redrive_execution(executionArn=failed_child["ExecutionArn"])
    once = maps.called()

    maps.put("forgiven", "")
    maps.cloud.admin.set_knobs(wait_scale=0)
    maps.sfn.redrive_execution(executionArn=execution)
    again = maps.cloud.ended(execution)
    assert again["status"] == "SUCCEEDED", again["cause"]
    redriven = maps.map_run(execution)
    assert (redriven["mapRunArn"], redriven["redriveCount"]) == (run["mapRunArn"], 1)
    assert counted(redriven["executionCounts"]) == {
        "succeeded": 8,
        "total": 8,
        "resultsWritten": 8,
    }
    expected = {**dict.fromkeys(range(8), 1), 3: 2, 5: 2}
    assert maps.called() == expected
    assert sum(once.values()) < sum(expected.values())
    assert "MapRunRedriven" in maps.kinds(execution)
    assert "ExecutionRedriven" in maps.kinds(failed_child["ExecutionArn"])


def test_a_stop_ends_the_children_and_what_they_wait_for(maps: Maps) -> None:
    inner = maps.cloud.machine({"Forever": {"Type": "Wait", "Seconds": 6000, "End": True}})
    nested = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Arguments": {"StateMachineArn": inner, "Input": {}},
        "End": True,
    }
    machine = maps.machine({"Nested": nested}, Items="{% [1..5] %}", MaxConcurrency=3)
    execution = maps.cloud.start(machine, {})

    def running() -> int:
        found = maps.sfn.list_executions(stateMachineArn=inner, statusFilter="RUNNING")
        return len(found["executions"])

    eventually(lambda: running() == 3)
    arn = maps.map_run(execution)["mapRunArn"]
    maps.sfn.update_map_run(mapRunArn=arn, maxConcurrency=4)
    eventually(lambda: running() == 4)
    maps.sfn.stop_execution(executionArn=execution)
    eventually(lambda: running() == 0)
    run = eventually(lambda: (found := maps.map_run(execution))["status"] == "ABORTED" and found)
    assert counted(run["executionCounts"]) == {"aborted": 4, "pending": 1, "total": 5}
    assert {child["status"] for child in maps.children(execution)} == {"ABORTED"}
    assert maps.kinds(execution)[-3:] == ["MapRunAborted", "MapStateAborted", "ExecutionAborted"]
    with pytest.raises(ClientError, match="not running"):
        maps.sfn.update_map_run(mapRunArn=arn, maxConcurrency=1)

    def facts() -> tuple[int, int]:
        run = maps.map_run(execution)
        return run["redriveCount"], run["executionCounts"]["running"]

    # A redrive right after a stop may find that the Map Run is still ending.
    for redrives in (1, 2):
        maps.sfn.redrive_execution(executionArn=execution)
        eventually(lambda: facts() == (redrives, 4))  # noqa: B023 - called before the next turn
        maps.sfn.stop_execution(executionArn=execution)
    assert len(maps.children(execution)) == 4


def test_nobody_sees_or_starts_the_machine_of_the_children(maps: Maps) -> None:
    machine = maps.machine({"Show": {"Type": "Pass", "End": True}}, Items="{% [1] %}")
    ended = maps.run(machine)
    (child,) = maps.children(ended["executionArn"])
    described = maps.sfn.describe_state_machine_for_execution(executionArn=child["executionArn"])
    assert described["stateMachineArn"] == f"{machine}/Members"
    assert "Show" in json.loads(described["definition"])["States"]
    names = [each["name"] for each in maps.sfn.list_state_machines()["stateMachines"]]
    assert not [name for name in names if "/" in name]
    with pytest.raises(ClientError, match="ValidationException"):
        maps.cloud.start(f"{machine}/Members")


def test_an_input_that_is_too_large_for_a_child_ends_the_map(maps: Maps) -> None:
    machine = maps.machine(
        {"Show": {"Type": "Pass", "Output": {}, "End": True}},
        Items="{% [1..2] %}",
        ItemSelector={"text": "{% $pad('', 300000, 'x') %}"},
    )
    assert maps.run(machine)["error"] == "States.DataLimitExceeded"


def test_a_history_that_is_full_ends_the_execution(maps: Maps) -> None:
    turn = {
        "Type": "Pass",
        "Output": {"n": "{% $states.input.n + 1 %}"},
        "Next": "More",
    }
    more = {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input.n < 7000 %}", "Next": "Turn"}],
        "Default": "Done",
    }
    states = {"Turn": turn, "More": more, "Done": {"Type": "Succeed"}}
    ended = maps.cloud.ended(maps.cloud.start(maps.cloud.machine(states), {"n": 0}))
    assert (ended["status"], ended["error"]) == ("FAILED", "States.Runtime")
    assert "maximum number of history events (25000)" in ended["cause"]


def permissions_of(maps: Maps) -> dict[str, dict[str, Any]]:
    """Return the statements that a Map with a reader and a writer needs, by their action."""
    machines = "arn:aws:states:us-east-1:000000000000"
    bucket = f"arn:aws:s3:::{maps.bucket}"
    resources = {
        "states:StartExecution": f"{machines}:stateMachine:*",
        "lambda:InvokeFunction": maps.function,
        "s3:GetObject": f"{bucket}/*",
        "s3:PutObject": f"{bucket}/results/*",
        "s3:AbortMultipartUpload": f"{bucket}/results/*",
        "s3:ListMultipartUploadParts": f"{bucket}/results/*",
    }
    return {
        action: {"Effect": "Allow", "Action": action, "Resource": resource}
        for action, resource in resources.items()
    }


def test_a_map_acts_as_the_role_of_its_state_machine(strict_cloud: Cloud) -> None:
    maps = Maps(strict_cloud)
    writing = {"Effect": "Allow", "Action": "s3:*", "Resource": f"arn:aws:s3:::{maps.bucket}*"}
    maps.function = strict_cloud.function(FUNCTION, role=strict_cloud.role(writing))
    maps.put("items.jsonl", lines(items(2)))
    known = permissions_of(maps)

    def outcome(*missing: str) -> str:
        allowed = [statement for action, statement in known.items() if action not in missing]
        machine = maps.machine(
            maps.calling(),
            role=strict_cloud.role(*allowed),
            ItemReader={
                "Resource": READER,
                "ReaderConfig": {"InputType": "JSONL"},
                "Arguments": KEY,
            },
            ItemSelector=SELECTOR,
            ResultWriter={
                "Resource": WRITER,
                "Arguments": {"Bucket": maps.bucket, "Prefix": "results"},
            },
        )
        ended = maps.run(machine)
        return str(ended.get("error", ended["status"]))

    assert outcome() == "SUCCEEDED"
    assert outcome("states:StartExecution") == "States.Permissions"
    assert outcome("lambda:InvokeFunction") == "States.ExceedToleratedFailureThreshold"
    assert outcome("s3:GetObject") in {"States.ItemReaderFailed", "States.ResultWriterFailed"}
    assert outcome("s3:PutObject") == "States.ResultWriterFailed"


def test_listing_needs_the_prefix_and_a_redrive_its_permission(strict_cloud: Cloud) -> None:
    maps = Maps(strict_cloud)
    maps.put("in/a", "")
    bucket = f"arn:aws:s3:::{maps.bucket}"
    start = permissions_of(maps)["states:StartExecution"]
    listing = {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": bucket,
        "Condition": {"StringLike": {"s3:prefix": "in/*"}},
    }
    role = strict_cloud.role(start, listing)

    def machine(prefix: str) -> str:
        arguments = {"Bucket": maps.bucket, "Prefix": prefix}
        fail = {"Type": "Fail", "Error": "Never"}
        resource = "arn:aws:states:::s3:listObjectsV2"
        return maps.machine(
            {"Fail": fail}, role=role, ItemReader={"Resource": resource, "Arguments": arguments}
        )

    assert maps.run(machine("out/"))["error"] == "States.ItemReaderFailed"
    ended = maps.run(machine("in/"))
    assert ended["error"] == "States.ExceedToleratedFailureThreshold"
    maps.sfn.redrive_execution(executionArn=ended["executionArn"])
    again = strict_cloud.ended(ended["executionArn"])
    assert (again["error"], "states:RedriveExecution" in again["cause"]) == (
        "States.Permissions",
        True,
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"StartAt": "Elsewhere"}, "Missing 'StartAt' target: Elsewhere at /StartAt"),
        ({"States": {}}, "must contain states at /States"),
        ({"States": {"A": {"Type": "Trial", "End": True}}}, "known at /States/A/Type"),
        ({"States": {"A": {"Type": "Pass"}}}, "MISSING_END_STATE"),
        ({"States": {"A": {"Type": "Pass", "Next": "B"}}}, "Missing 'Next' target: B"),
        (
            {"States": {"A": {"Type": "Map", "End": True}}},
            "A Map needs an ItemProcessor at /States/A",
        ),
    ],
)
def test_a_definition_that_cannot_run_is_refused(
    cloud: Cloud, change: dict[str, Any], problem: str
) -> None:
    sfn, good = (
        cloud.client("stepfunctions"),
        {"StartAt": "A", "States": {"A": {"Type": "Succeed"}}},
    )
    machine = cloud.machine(good["States"])
    bad = json.dumps({**good, **change})
    with pytest.raises(ClientError, match="InvalidDefinition") as refused:
        sfn.create_state_machine(name=unique("m"), definition=bad, roleArn=cloud.role())
    assert problem in str(refused.value)
    with pytest.raises(ClientError, match="InvalidDefinition"):
        sfn.update_state_machine(stateMachineArn=machine, definition=bad)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"Label": "x" * 41}, "at most 40 characters"),
        (
            {"ItemProcessor": {"StartAt": "S", "States": {"S": {"Type": "Succeed"}}}},
            "ItemReader is supported only in Distributed Maps",
        ),
        (
            {
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": "DISTRIBUTED"},
                    "StartAt": "S",
                    "States": {"S": {"Type": "Succeed"}},
                }
            },
            "needs an ExecutionType",
        ),
    ],
)
def test_a_map_that_cannot_run_is_refused(maps: Maps, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ClientError) as refused:
        maps.machine({"S": {"Type": "Succeed"}}, ItemReader={"Resource": READER}, **change)
    assert problem in str(refused.value)
