"""What the session of one run reaches of another: nothing, by the synthesized role (S4)."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from runctl.model.node import NodeId
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.policy.run_access import Grant, Reach
from runctl.policy.session_policy import Place, run_policy, trainer_policy, warm_policy
from tests.infra.run_session import RunSession
from tests.infra.templates import ACCOUNT, REGION, Resource, Synthesized

TABLE = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/runctl-ledger"
MACHINE = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:runctl-train"
JUDGE = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:runctl-judge_trial"
STREAMS = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/runctl/trainer:log-stream"
PREFIXES = ("inputs/x", "outputs/x", "code/x.tar.gz", "groups/x")


def role_named(app: Synthesized, name: str) -> Resource:
    (found,) = [
        role
        for role in app.of_type("AWS::IAM::Role")
        if role.logical_id.startswith(name) and "orchestration" in role.stack
    ]
    return found


def bucket(app: Synthesized) -> str:
    return f"<{app.one('AWS::S3::Bucket').logical_id}>"


def session(
    app: Synthesized, reach: Reach = Reach.RUN, run_id: str = "a", **request: Any
) -> RunSession:
    found = RunRequest.from_stored({"command": ["train"], **request})
    now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    run = Run(run_id=run_id, request=found, started_at=now, execution="a", execution_arn="arn")
    grant = Grant(node=NodeId(run_id, 3, 0), run=run, reach=reach, instance_id="i-1")
    place = Place(bucket=bucket(app), region=REGION, account=ACCOUNT)
    name, policy = {
        Reach.RUN: ("RunRolesRunRole", run_policy(found, run_id, place)),
        Reach.WARM: ("RunRolesRunRole", warm_policy(place, table="runctl-ledger")),
        Reach.TRAINER: ("RunRolesTrainerRole", trainer_policy(run_id, place)),
    }[reach]
    role = app.role(f"role/<{role_named(app, name).logical_id}>")
    return RunSession(role=role, policy=policy, tags=grant.tags)


def objects(app: Synthesized, key: str) -> str:
    return f"arn:aws:s3:::{bucket(app)}/{key}"


def item(key: str, *attributes: str) -> dict[str, Any]:
    return {
        "dynamodb:LeadingKeys": [key],
        **({"dynamodb:Attributes": ["pk", "sk", *attributes]} if attributes else {}),
    }


def test_a_session_does_everything_that_an_agent_does_for_its_run(app: Synthesized) -> None:
    own = session(app, code=f"s3://{'x' * 5}/code/abc.tar.gz")
    for action, key in (
        ("s3:GetObject", "runs/a/checkpoints/parts/x"),
        ("s3:PutObject", "runs/a/checkpoints/parts/x"),
        ("s3:AbortMultipartUpload", "runs/a/outputs/x"),
        ("s3:DeleteObject", "runs/a/checkpoints/parts/x"),
        ("s3:GetObject", "environments/current/f"),
        ("s3:PutObject", "environments/parts/x"),
        ("s3:PutObject", "environments/manifests/f/x.json"),
        ("s3:PutObject", "environments/current/f"),
        ("s3:PutObject", "environments/runs/a/0000/f.json"),
        ("s3:PutObject", "environments/uses/f/2030-01-01"),
    ):
        assert own.allows(action, objects(app, key)), (action, key)
    listed = {"s3:prefix": "runs/a/checkpoints/manifests/"}
    assert own.allows("s3:ListBucket", f"arn:aws:s3:::{bucket(app)}", **listed)
    for action in ("GetItem", "Query"):
        assert own.allows(f"dynamodb:{action}", TABLE, **item("RUN#a"))
    written = item("RUN#a", "newest", "save", "fence")
    assert own.allows("dynamodb:UpdateItem", TABLE, **written)
    for action in ("SendTaskSuccess", "SendTaskHeartbeat"):
        assert own.allows(f"states:{action}", MACHINE)
    for action in ("CreateLogStream", "PutLogEvents"):
        assert own.allows(f"logs:{action}", f"{STREAMS}:a/0003-000")


@pytest.mark.parametrize("run_id", ["b", "ab", "A", "a-1", ""])
def test_a_session_reaches_nothing_of_another_run(app: Synthesized, run_id: str) -> None:
    own = session(app)
    for key in ("checkpoints/parts/x", "outputs/x", "environment/versions.json", "logs/x"):
        for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
            assert not own.allows(f"s3:{action}", objects(app, f"runs/{run_id}/{key}"))
    listed = {"s3:prefix": f"runs/{run_id}/"}
    assert not own.allows("s3:ListBucket", f"arn:aws:s3:::{bucket(app)}", **listed)
    for action in ("GetItem", "Query", "UpdateItem", "PutItem", "DeleteItem", "Scan"):
        for key in (f"RUN#{run_id}", f"WARM#{run_id}", f"GROUP#{run_id}"):
            assert not own.allows(f"dynamodb:{action}", TABLE, **item(key, "save"))
    for action in ("CreateLogStream", "PutLogEvents", "GetLogEvents", "FilterLogEvents"):
        assert not own.allows(f"logs:{action}", f"{STREAMS}:{run_id}/0001-000")
    assert not own.allows("s3:PutObject", objects(app, f"environments/runs/{run_id}/0000/f.json"))


@pytest.mark.parametrize(
    "request_",
    [{"root": True}, {"instance_id": "i-0123456789abcdef0"}, {"root": True, "group": "g"}],
)
def test_a_run_whose_agent_others_may_control_plants_nothing_that_other_runs_execute(
    app: Synthesized, request_: dict[str, Any]
) -> None:
    own = session(app, **request_)
    for key in ("parts/x", "manifests/f/x.json", "current/f", "new/f", "f.tar.gz"):
        for action in ("PutObject", "AbortMultipartUpload", "DeleteObject"):
            assert not own.allows(f"s3:{action}", objects(app, f"environments/{key}"))
        assert own.allows("s3:GetObject", objects(app, f"environments/{key}"))
    # Nor in what another run, or another group, has for itself.
    for area in ("b", "ab", "h", "*", ""):
        assert not own.allows("s3:PutObject", objects(app, f"environments/own/{area}/current/f"))
    area = request_.get("group", "a")
    for key in (f"own/{area}/parts/x", f"own/{area}/current/f", "runs/a/0000/f.json"):
        assert own.allows("s3:PutObject", objects(app, f"environments/{key}"))
    assert own.allows("s3:PutObject", objects(app, "environments/uses/f/2030-01-01"))
    assert not own.allows("s3:DeleteObject", objects(app, f"environments/own/{area}/current/f"))


@pytest.mark.parametrize("reach", [Reach.WARM, Reach.TRAINER])
def test_no_other_session_stores_environments(app: Synthesized, reach: Reach) -> None:
    other = session(app, reach, group="g")
    for key in ("parts/x", "current/f", "own/a/current/f", "own/g/current/f", "uses/f/2030-01-01"):
        assert not other.allows("s3:PutObject", objects(app, f"environments/{key}"))


@pytest.mark.parametrize("key", PREFIXES)
def test_shared_objects_are_read_only_if_the_request_names_them(app: Synthesized, key: str) -> None:
    own = session(app)
    assert not own.allows("s3:GetObject", objects(app, key))
    assert not own.allows("s3:PutObject", objects(app, key))
    assert not own.allows("s3:ListBucket", f"arn:aws:s3:::{bucket(app)}", **{"s3:prefix": key})


def test_a_listing_of_the_whole_bucket_is_refused(app: Synthesized) -> None:
    own, arn = session(app), f"arn:aws:s3:::{bucket(app)}"
    assert not own.allows("s3:ListBucket", arn)
    for prefix in ("", "runs/", "runs/a"):
        assert not own.allows("s3:ListBucket", arn, **{"s3:prefix": prefix})


def test_a_session_reads_the_token_of_its_attempt_only(app: Synthesized) -> None:
    own = session(app)  # of attempt 3 of the run a
    assert own.allows("dynamodb:GetItem", TABLE, **item("TOKEN#a#0003"))
    for action in ("UpdateItem", "PutItem", "DeleteItem", "Query", "BatchGetItem"):
        assert not own.allows(f"dynamodb:{action}", TABLE, **item("TOKEN#a#0003"))
    # A later attempt, an earlier one, that of another run, and several at once.
    for key in ("a#0004", "a#0002", "a#0030", "b#0003", "a", "a#", "a#*"):
        assert not own.allows("dynamodb:GetItem", TABLE, **item(f"TOKEN#{key}"))
    both = {"dynamodb:LeadingKeys": ["TOKEN#a#0003", "TOKEN#a#0004"]}
    assert not own.allows("dynamodb:GetItem", TABLE, **both)
    for reach in (Reach.WARM, Reach.TRAINER):
        other = session(app, reach, group="g")
        assert not other.allows("dynamodb:GetItem", TABLE, **item("TOKEN#a#0003"))


def test_several_keys_in_one_request_must_all_be_the_runs(app: Synthesized) -> None:
    both = {"dynamodb:LeadingKeys": ["RUN#a", "RUN#b"]}
    assert not session(app).allows("dynamodb:GetItem", TABLE, **both)
    assert not session(app).allows("dynamodb:Query", TABLE)  # no key at all


@pytest.mark.parametrize(
    "attribute",
    [
        "request",
        "ended",
        "execution_arn",
        "unsettled",
        "pins",
        "token",
        "has_token",
        "instance_ids",
        "subject",
    ],
)
def test_a_run_cannot_rewrite_what_decides_about_its_permissions(
    app: Synthesized, attribute: str
) -> None:
    own = session(app)
    assert not own.allows("dynamodb:UpdateItem", TABLE, **item("RUN#a", "save", attribute))


def test_a_run_that_follows_another_pins_its_checkpoints_and_writes_nothing_else(
    app: Synthesized,
) -> None:
    evaluate = {"checkpoint": "run:b", "every_checkpoint": True}
    follower = session(app, kind="evaluate", evaluate=evaluate)
    assert follower.allows("dynamodb:GetItem", TABLE, **item("RUN#b"))
    assert follower.allows("dynamodb:UpdateItem", TABLE, **item("RUN#b", "pins"))
    for attribute in ("save", "newest", "ended", "request", "fence"):
        written = item("RUN#b", "pins", attribute)
        assert not follower.allows("dynamodb:UpdateItem", TABLE, **written)
    assert follower.allows("s3:GetObject", objects(app, "runs/b/checkpoints/parts/x"))
    for action in ("PutObject", "DeleteObject"):
        assert not follower.allows(f"s3:{action}", objects(app, "runs/b/checkpoints/parts/x"))
    once = session(app, kind="evaluate", evaluate={"checkpoint": "run:b@1"})
    assert not once.allows("dynamodb:UpdateItem", TABLE, **item("RUN#b", "pins"))


def test_a_part_of_a_job_writes_the_jobs_shards_and_nothing_else_of_it(app: Synthesized) -> None:
    process = {
        "input": "s3://elsewhere/a/", "output": "s3://elsewhere/b/", "shard_count": 2
    }  # fmt: skip
    part = session(app, kind="process", group="job", process=process)
    for action, key in (
        ("s3:PutObject", "runs/job/shards/done/1.json"),
        ("s3:DeleteObject", "runs/job/checkpoints/shards/1.tar.gz"),
        ("s3:GetObject", "runs/job/shards/plan.jsonl"),
    ):
        assert part.allows(action, objects(app, key))
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not part.allows(action, objects(app, "runs/job/checkpoints/parts/x"))
    assert not part.allows("dynamodb:GetItem", TABLE, **item("RUN#job"))
    # Another run of the same group, which processes nothing.
    trial = session(app, group="job")
    assert not trial.allows("s3:PutObject", objects(app, "runs/job/shards/done/1.json"))


def test_an_instance_offers_itself_and_decides_nothing_about_its_wait(app: Synthesized) -> None:
    for reach in (Reach.RUN, Reach.WARM):
        offering = session(app, reach, group="g")
        for attribute in ("since", "keep_seconds", "pool", "waited_seconds"):
            written = item("WARM#g#i-1", "stage", attribute)
            assert not offering.allows("dynamodb:UpdateItem", TABLE, **written)
    for session_of_none in (session(app), session(app, Reach.TRAINER, group="g")):
        written = item("WARM##i-1", "stage"), item("WARM#g#i-1", "stage")
        assert not any(session_of_none.allows("dynamodb:UpdateItem", TABLE, **w) for w in written)


def test_a_waiting_instance_reaches_only_its_own_item(app: Synthesized) -> None:
    warm = session(app, Reach.WARM, group="g")
    for action in ("GetItem", "UpdateItem"):
        assert warm.allows(f"dynamodb:{action}", TABLE, **item("WARM#g#i-1", "stage"))
        for other in ("WARM#g#i-2", "WARM#g", "WARM#h#i-1", "WARM#g#", "RUN#a"):
            assert not warm.allows(f"dynamodb:{action}", TABLE, **item(other, "stage"))
    assert not warm.allows("dynamodb:Query", TABLE, **item("WARM#g#i-1"))
    assert not warm.allows("s3:GetObject", objects(app, "runs/a/outputs/x"))
    assert not warm.allows("s3:GetObject", objects(app, "environments/current/f"))
    assert not warm.allows("states:SendTaskSuccess", MACHINE)


def test_services_of_others_need_the_request(app: Synthesized) -> None:
    plain, docker = session(app), session(app, docker={"image": "x/y:1"})
    assert not plain.allows("ecr:GetAuthorizationToken")
    assert docker.allows("ecr:GetAuthorizationToken")
    trial = {"number": 1, "hyperparameters": {}, "metric": "m", "judge": "f", "first_rung": 1}
    assert not plain.allows("lambda:InvokeFunction", JUDGE)
    assert session(app, group="g", trial=trial).allows("lambda:InvokeFunction", JUDGE)
    for function in ("issue_credentials", "train"):
        arn = JUDGE.replace("judge_trial", function)
        assert not session(app, group="g", trial=trial).allows("lambda:InvokeFunction", arn)


def test_a_trainer_writes_outputs_of_its_run_only(app: Synthesized) -> None:
    trainer = session(app, Reach.TRAINER)
    assert trainer.allows("s3:PutObject", objects(app, "runs/a/outputs/x"))
    assert trainer.allows("s3:GetObject", objects(app, "runs/a/checkpoints/parts/x"))
    for key in ("runs/a/checkpoints/parts/x", "runs/b/outputs/x", "environments/parts/x"):
        assert not trainer.allows("s3:PutObject", objects(app, key))
    assert not trainer.allows("s3:GetObject", objects(app, "runs/b/outputs/x"))
    assert not trainer.allows("dynamodb:GetItem", TABLE, **item("RUN#a"))


@pytest.mark.parametrize("name", ["RunRolesRunRole", "RunRolesTrainerRole"])
def test_only_the_function_may_assume_the_roles_of_runs(app: Synthesized, name: str) -> None:
    statements = role_named(app, name).properties["AssumeRolePolicyDocument"]["Statement"]
    issuer = app.function("issue_credentials").properties["Role"]
    assert {str(each["Principal"]) for each in statements} == {str({"AWS": issuer})}
    (statement,) = statements
    tagged = ["sts:AssumeRole", "sts:TagSession"]
    assert statement["Action"] == (tagged if name == "RunRolesRunRole" else "sts:AssumeRole")


def test_the_function_may_open_sessions_and_look_up_instances_and_no_more(app: Synthesized) -> None:
    role = app.role(app.function("issue_credentials").properties["Role"])
    assert role.actions == {
        "dynamodb:GetItem", "dynamodb:Query", "ec2:DescribeInstances", "iam:GetInstanceProfile",
        "sts:AssumeRole", "sts:TagSession", "logs:CreateLogStream", "logs:PutLogEvents",
    }  # fmt: skip
    assert not role.allows("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/admin")
