"""`runctl verify` on a deployment with enforced permissions, with and without faults."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runctl.local.client import LocalCloudClient
from runctl.model.identity import RUN_TAG
from runctl.model.role_calls import ROLE_CALLS
from tests.e2e.role_use import stack_roles, unlisted, used_actions
from tests.e2e.testbed import PROJECT, Testbed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SPOT_STANDARD = "L-34B43A08"


def verify(
    testbed: Testbed,
    *options: str,
    keys: dict[str, str] | None = None,
    answer: str = "",
    code: int,
) -> dict[str, Any]:
    """Run the command on the local cloud, or with the keys of a role; return its document.

    With an answer it has a terminal, in which that was typed.
    """
    words = [sys.executable, "-m", "runctl.cli.main", *([] if keys else ["--local"]), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if keys:
        environment |= {**testbed.endpoint.environment(), **keys}
    else:
        environment["RUNCTL_LOCAL_HOME"] = str(testbed.endpoint.home)
    with contextlib.ExitStack() as stack:
        terminal = subprocess.DEVNULL
        if answer:
            typing, terminal = os.openpty()
            stack.callback(os.close, typing)
            stack.callback(os.close, terminal)
            os.write(typing, f"{answer}\n".encode())
        done = subprocess.run(
            [*words, "verify", *options],
            env=environment,
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert ("Run a small job on up to 2 spot instances" in done.stderr) == bool(answer)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def failures(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (check["check"], finding["name"], finding["why"])
        for check in document["checks"]
        for finding in check["findings"]
    ]


def unknown(document: dict[str, Any]) -> set[str]:
    return {check["check"] for check in document["checks"] if check["state"] == "unknown"}


@contextlib.contextmanager
def restored(restore: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        restore()


def test_a_deployment_passes(testbed: Testbed) -> None:
    document = verify(testbed, code=0)
    assert failures(document) == []
    assert (document["failed"], document["unknown"]) == (0, 0)
    names = {check["name"] for check in document["checks"] if check["check"] == "roles"}
    assert names == {*ROLE_CALLS, "list"}
    kinds = {check["check"] for check in document["checks"]}
    assert kinds == {
        "states", "roles", "launch templates", "dry runs", "images", "routes", "quotas", "account",
        "storage", "logs",
    }  # fmt: skip


def test_a_permission_that_a_role_lacks_is_named(testbed: Testbed) -> None:
    iam, role = testbed.clients.get("iam"), stack_roles(testbed)["finish_run"]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    less = {
        **policy,
        "Statement": [
            statement
            for statement in policy["Statement"]
            if "sns:Publish" not in statement["Action"]
        ],
    }

    def put(document: dict[str, Any]) -> None:
        text = json.dumps(document)
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=text)

    with restored(lambda: put(policy)):
        put(less)
        document = verify(testbed, code=1)
    ((check, subject, why),) = failures(document)
    assert (check, subject) == ("roles", "finish_run")
    assert "it may not sns:Publish on arn:aws:sns:" in why


def test_a_state_that_cannot_read_its_predecessor_is_named(testbed: Testbed) -> None:
    states, arn = testbed.clients.get("stepfunctions"), testbed.deployment.state_machine_arn
    definition = states.describe_state_machine(stateMachineArn=arn)["definition"]
    broken = json.loads(definition)
    broken["States"]["RecordImage"]["Output"] = {"tag": "x"}

    def put(text: str) -> None:
        states.update_state_machine(stateMachineArn=arn, definition=text)

    with restored(lambda: put(definition)):
        put(json.dumps(broken))
        document = verify(testbed, code=1)
    found = failures(document)
    assert {(check, name) for check, name, _ in found} == {
        ("states", "runctl-train: ImageRecorded?")
    }
    assert all("after RecordImage" in why and "$states.input.recorded" in why for *_, why in found)


def test_a_task_that_nothing_is_known_of_is_named(testbed: Testbed) -> None:
    states, arn = testbed.clients.get("stepfunctions"), testbed.deployment.sweep_machine_arn
    definition = states.describe_state_machine(stateMachineArn=arn)["definition"]

    def put(text: str) -> None:
        states.update_state_machine(stateMachineArn=arn, definition=text)

    with restored(lambda: put(definition)):
        put(definition.replace("runctl-ask_trial", "runctl-ask_somebody"))
        document = verify(testbed, code=1)
    assert ("states", "runctl-sweep: AskTrial") in {found[:2] for found in failures(document)}


def test_a_quota_of_zero_is_named(testbed: Testbed) -> None:
    testbed.cloud.set_knobs(vcpu_quotas={SPOT_STANDARD: 0})
    ((check, name, why),) = failures(verify(testbed, code=1))
    assert check == "quotas"
    assert "Standard" in name
    assert "may launch none" in why


def test_images_that_are_too_old_are_named(testbed: Testbed) -> None:
    testbed.cloud.set_knobs(image_age_days=800)
    found = failures(verify(testbed, code=1))
    assert {check for check, *_ in found} == {"images"}
    assert all("has been deprecated since" in why for *_, why in found)


def test_own_buckets_and_secrets_that_runs_cannot_use_are_named(testbed: Testbed) -> None:
    ssm, s3 = testbed.clients.get("ssm"), testbed.clients.get("s3")
    held = ssm.get_parameter(Name="/runctl/deployment")["Parameter"]["Value"]
    closed, region = f"closed-{os.urandom(4).hex()}", testbed.deployment.region
    s3.create_bucket(Bucket=closed)
    nobody = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{closed}/*",
        "Condition": {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/admin"}},
    }
    s3.put_bucket_policy(
        Bucket=closed, Policy=json.dumps({"Version": "2012-10-17", "Statement": [nobody]})
    )
    where = f"{region}:{testbed.deployment.account}"
    listed = {
        "readable_buckets": [closed, "there-is-none"],
        "secrets": [f"arn:aws:secretsmanager:{where}:secret:e2e/none-??????"],
        "parameters": [f"arn:aws:ssm:{where}:parameter/e2e/none"],
    }

    def put(text: str) -> None:
        ssm.put_parameter(Name="/runctl/deployment", Value=text, Type="String", Overwrite=True)

    with restored(lambda: put(held)):
        put(json.dumps({**json.loads(held), "own_data": listed}))
        found = failures(verify(testbed, code=1))
    own = [(check, name, why) for check, name, why in found if check != "roles"]
    assert [(check, name) for check, name, _ in own] == [
        ("own buckets", closed), ("own buckets", closed), ("own buckets", closed),
        ("own buckets", "there-is-none"), ("secrets", "e2e/none"), ("secrets", "/e2e/none"),
    ]  # fmt: skip
    assert all("denies s3:GetObject to" in why for _, name, why in own if name == closed)
    # They were deployed without these buckets, and for all below e2e/.
    lacking = {name: why for check, name, why in found if check == "roles"}
    assert set(lacking) == {
        "prepare_run", "prepare_sweep", "plan_shards", "sessions of runs", "sessions of trainers",
    }  # fmt: skip
    assert all(closed in why and "secret" not in why for why in lacking.values())


def test_a_subnet_without_a_route_out_is_named(testbed: Testbed) -> None:
    ec2, (subnet, *_) = testbed.clients.get("ec2"), testbed.deployment.subnets.values()
    (table,) = ec2.describe_route_tables(
        Filters=[{"Name": "association.subnet-id", "Values": [subnet]}]
    )["RouteTables"]
    (route,) = [
        found for found in table["Routes"] if found.get("DestinationCidrBlock") == "0.0.0.0/0"
    ]
    way = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"}
    with restored(lambda: ec2.create_route(**way, GatewayId=route["GatewayId"])):
        ec2.delete_route(**way)
        ((check, name, why),) = failures(verify(testbed, code=1))
    assert (check, name) == ("routes", subnet)
    assert "it has no route out" in why


def session(testbed: Testbed, *statements: dict[str, Any]) -> dict[str, str]:
    """Return the keys of a role with these statements, as variables."""
    iam, name = testbed.clients.get("iam"), f"verifier-{os.urandom(4).hex()}"
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document)
    sts = testbed.clients.get("sts")
    got = sts.assume_role(RoleArn=arn, RoleSessionName="verifier")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": got["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": got["SecretAccessKey"],
        "AWS_SESSION_TOKEN": got["SessionToken"],
    }


ANYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def test_without_permission_to_simulate_the_rest_goes_on(testbed: Testbed) -> None:
    denial = {"Effect": "Deny", "Action": "iam:SimulatePrincipalPolicy", "Resource": "*"}
    document = verify(testbed, keys=session(testbed, ANYTHING, denial), code=5)
    assert failures(document) == []
    assert "roles" in unknown(document)
    assert {"roles", "account"} >= unknown(document)
    problems = {check["problem"] for check in document["checks"] if check["problem"]}
    assert all("iam:SimulatePrincipalPolicy" in problem for problem in problems)
    assert document["passed"] > document["unknown"]


def test_with_a_failure_something_unknown_does_not_hide_it(testbed: Testbed) -> None:
    denial = {"Effect": "Deny", "Action": "iam:*", "Resource": "*"}
    testbed.cloud.set_knobs(vcpu_quotas={SPOT_STANDARD: 0})
    document = verify(testbed, keys=session(testbed, ANYTHING, denial), code=1)
    assert [check for check, *_ in failures(document)] == ["quotas"]
    assert {"roles", "launch templates"} <= unknown(document)


def test_credentials_that_may_do_nothing(testbed: Testbed) -> None:
    only = {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": "*"}
    document = verify(testbed, keys=session(testbed, only), code=3)
    assert (document["passed"], document["failed"]) == (0, 0)


def test_it_changes_nothing(testbed: Testbed) -> None:
    cloud: LocalCloudClient = testbed.cloud
    before, calls = machines_of_runs(testbed), cloud.calls()
    verify(testbed, code=0)
    assert machines_of_runs(testbed) == before
    made = cloud.calls(since=calls[-1]["seq"] if calls else 0)
    # Functions and agents, of runs that other tests have started, act with roles.
    own = [call for call in made if ":assumed-role/" not in call["caller"]]
    assert {"RunInstances", "CreateFleet"} <= {call["action"] for call in own}
    wet = {call["action"] for call in own if call["outcome"] == "ok"}
    assert {
        action for action in wet if not action.startswith(("Describe", "Get", "Simulate"))
    } == set()


def machines_of_runs(testbed: Testbed) -> set[str]:
    """Return the machines of runs that `verify --run` started; other tests' runs may go on."""
    return {
        each["instance_id"]
        for each in testbed.cloud.instances()
        if each["tags"].get(RUN_TAG, "").startswith("verify-")
    }


def steps(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["step"], step["state"]) for step in document["run"]["steps"]]


def templates(testbed: Testbed) -> tuple[int, int]:
    """Return how many experiment templates were made, and how many were deleted."""
    calls = [call for call in testbed.cloud.calls() if call["outcome"] == "ok"]
    made = sum(call["action"] == "CreateExperimentTemplate" for call in calls)
    return made, sum(call["action"] == "DeleteExperimentTemplate" for call in calls)


def test_a_run_is_interrupted_by_fis_and_completes(testbed: Testbed) -> None:
    before = templates(testbed)
    document = verify(testbed, "--run", answer="y", code=0)
    assert document["run"]["left"] == []
    assert steps(document) == [
        (name, "passed")
        for name in (
            "started", "running", "checkpoint", "interrupted", "notice", "checkpoint", "resumed",
            "completed",
        )
    ]  # fmt: skip
    run_id = document["run"]["run_id"]
    first, *_, last = testbed.attempts(run_id)
    assert first.noticed_at is not None
    assert (last.resume_step or 0) > 0
    assert document["run"]["cost_usd"] > 0
    assert document["run"]["machine_seconds"] > 0
    assert templates(testbed) == (before[0] + 1, before[1] + 1)
    # The role for FIS did what the list of role's calls says, and nothing else.
    assert "ec2:SendSpotInstanceInterruptions" in used_actions(testbed)["fault injection"]


def test_a_no_at_the_question_starts_nothing_and_the_checks_are_shown(testbed: Testbed) -> None:
    before = machines_of_runs(testbed)
    document = verify(testbed, "--run", answer="n", code=0)
    assert (document["run"], document["failed"]) == (None, 0)
    assert document["passed"] > 0
    assert machines_of_runs(testbed) == before


def test_without_permission_for_fis_the_run_is_stopped(testbed: Testbed) -> None:
    denial = {"Effect": "Deny", "Action": "fis:CreateExperimentTemplate", "Resource": "*"}
    keys = session(testbed, ANYTHING, denial)
    document = verify(testbed, "--run", "--yes", keys=keys, code=3)
    assert steps(document)[-1] == ("failed", "failed")
    last = document["run"]["steps"][-1]
    assert "fis:CreateExperimentTemplate" in last["detail"]
    assert "iam:PassRole" in last["remedy"]
    assert testbed.wait_for_end(document["run"]["run_id"]).status == "ABORTED"


def test_a_role_that_fis_may_not_use_fails_the_run_and_leaves_no_template(
    testbed: Testbed,
) -> None:
    iam, role = testbed.clients.get("iam"), stack_roles(testbed)["fault injection"]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    keys = session(
        testbed,
        ANYTHING,
        {"Effect": "Deny", "Action": "iam:SimulatePrincipalPolicy", "Resource": "*"},
    )
    less = {**policy, "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
    before = templates(testbed)

    def put(document: dict[str, Any]) -> None:
        text = json.dumps(document)
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=text)

    with restored(lambda: put(policy)):
        put(less)
        document = verify(testbed, "--run", "--yes", keys=keys, code=1)
    last = document["run"]["steps"][-1]
    assert last["state"] == "failed"
    assert "is not authorized to perform: ec2:" in last["detail"]
    assert templates(testbed) == (before[0] + 1, before[1] + 1)
    assert testbed.wait_for_end(document["run"]["run_id"]).status == "ABORTED"


@contextlib.contextmanager
def started(testbed: Testbed) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start the command, and yield it once its run has started, with the run's name."""
    # Ctrl-C works even if the tests run in a shell's background, where it is ignored.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from runctl.cli import main; main.main()"
    )
    words = [sys.executable, "-c", program, "--local", "--json", "verify", "--run", "--yes"]
    environment = {**os.environ, "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home)}
    with subprocess.Popen(
        words,
        env=environment | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        line = next(line for line in running.stderr if line.startswith("started: "))
        yield running, line.removeprefix("started: ").strip()


def test_ctrl_c_stops_the_run_and_says_what_remains(testbed: Testbed) -> None:
    with started(testbed) as (running, run_id):
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        # What was read ahead of the line is in the stream, where communicate() does not look.
        said = running.stderr.read()
    assert running.returncode == 130
    assert f"{run_id} is stopped" in " ".join(said.split())
    assert f"`runctl --local forget {run_id}`" in " ".join(said.split())
    assert testbed.wait_for_end(run_id).status == "ABORTED"


def test_a_run_that_ends_otherwise_is_a_failure_with_the_reason(testbed: Testbed) -> None:
    before = templates(testbed)
    with started(testbed) as (running, run_id):
        arn = testbed.workflow.execution_arn(run_id)
        testbed.workflow.stop_run(arn, cause="somebody stopped it")
        printed, _ = running.communicate(timeout=120)
    assert running.returncode == 1
    last = json.loads(printed)["run"]["steps"][-1]
    assert (last["step"], last["state"]) == ("failed", "failed")
    assert "it ended before it could" in last["detail"]
    assert f"runctl logs {run_id}" in last["remedy"]
    assert templates(testbed) == before


def test_nothing_is_run_if_a_check_has_failed(testbed: Testbed) -> None:
    testbed.cloud.set_knobs(vcpu_quotas={SPOT_STANDARD: 0})
    before = machines_of_runs(testbed)
    document = verify(testbed, "--run", "--yes", code=1)
    assert document["run"] is None
    assert machines_of_runs(testbed) == before


def test_the_list_has_every_action_that_roles_used(testbed: Testbed, new_name: Any) -> None:
    """Every e2e test that ran before on this cloud counts; the end of the session asks again."""
    archive = testbed.upload_project({"train.py": "print('done')\n"})
    request = {"script": "train.py", "code": archive, "instance_types": ["m5.large"]}
    run_id = testbed.start(request, name=new_name())
    testbed.wait_for_training_completion(run_id)
    used = used_actions(testbed)
    assert {"instances", "prepare_run", "launch_instances", "state machine train"} <= set(used)
    assert unlisted(used) == {}
