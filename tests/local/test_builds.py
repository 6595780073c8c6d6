"""CodeBuild executes buildspecs, with the service role's rights, and refuses what it cannot."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from tests.local.builds import (
    LOGS,
    describe,
    ended,
    output,
    phases,
    problem,
    project,
    run,
    service_role,
    spec,
)
from tests.local.clouds import TRUST, Cloud, eventually, unique

pytestmark = pytest.mark.slow

ALL_PHASES = [
    "SUBMITTED", "QUEUED", "PROVISIONING", "DOWNLOAD_SOURCE", "INSTALL", "PRE_BUILD", "BUILD",
    "POST_BUILD", "COMPLETED",
]  # fmt: skip


def refused(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_phases_run_in_order_in_one_shell(cloud: Cloud) -> None:
    buildspec = spec(
        install={"commands": ["A=unexported; export B=exported; f() { echo function; }; cd /"]},
        pre_build={"commands": ['echo "$A $B $PWD"', "f"]},
        build={"commands": ["echo out; echo err >&2; printf 'no newline'"], "finally": ["echo f"]},
        post_build={"commands": ['echo "succeeding $CODEBUILD_BUILD_SUCCEEDING"']},
    )
    build = run(cloud, project(cloud, buildspec))
    assert (build["buildStatus"], build["currentPhase"]) == ("SUCCEEDED", "COMPLETED")
    assert list(phases(build)) == ALL_PHASES
    assert output(cloud, build) == [
        "unexported exported /", "function", "out", "err", "no newline", "f", "succeeding 1",
    ]  # fmt: skip
    assert build["endTime"] >= build["startTime"]


def test_a_failed_build_phase_is_followed_by_finally_and_post_build(cloud: Cloud) -> None:
    buildspec = spec(
        build={"commands": ["echo a", "echo b; (exit 7)", "echo c"], "finally": ["echo finally"]},
        post_build={"commands": ['echo "post $CODEBUILD_BUILD_SUCCEEDING"']},
    )
    build = run(cloud, project(cloud, buildspec))
    assert build["buildStatus"] == "FAILED"
    assert output(cloud, build) == ["a", "b", "finally", "post 0"]
    assert (phases(build)["BUILD"], phases(build)["POST_BUILD"]) == ("FAILED", "SUCCEEDED")
    assert problem(build) == (
        "COMMAND_EXECUTION_ERROR: Error while executing command: echo b; (exit 7). "
        "Reason: exit status 7"
    )


@pytest.mark.parametrize("phase", ["install", "pre_build"])
def test_nothing_follows_a_failure_before_the_build_phase(cloud: Cloud, phase: str) -> None:
    buildspec = spec(
        **{phase: {"commands": ["exit 3"], "finally": ["echo finally"]}},
        build={"commands": ["echo never"]},
        post_build={"commands": ["echo never"]},
    )
    build = run(cloud, project(cloud, buildspec))
    assert (build["buildStatus"], output(cloud, build)) == ("FAILED", ["finally"])
    assert not {"BUILD", "POST_BUILD"} & set(phases(build))


def test_abort_prevents_post_build(cloud: Cloud) -> None:
    buildspec = spec(
        build={"commands": ["false"], "on-failure": "ABORT"},
        post_build={"commands": ["echo never"]},
    )
    build = run(cloud, project(cloud, buildspec))
    assert (build["buildStatus"], output(cloud, build)) == ("FAILED", [])


def test_a_command_that_ends_the_shell_does_not_end_the_build(cloud: Cloud) -> None:
    commands = ["cd /; export KEPT=kept; set -eu; echo one; false; echo never"]
    buildspec = spec(
        build={"commands": commands, "finally": ['echo "$KEPT $PWD"', "exit 0", "echo last"]}
    )
    build = run(cloud, project(cloud, buildspec))
    assert build["buildStatus"] == "FAILED"
    assert output(cloud, build) == ["one", "kept /", "last"]


def test_a_buildspec_may_be_yaml(cloud: Cloud) -> None:
    buildspec = "version: 0.2\nenv: {shell: bash, variables: {N: 1}}\nphases:\n  build:\n"
    build = run(cloud, project(cloud, buildspec + "    commands:\n      - |\n        echo $N\n"))
    assert output(cloud, build) == ["1"]


@pytest.mark.parametrize(
    ("buildspec", "because"),
    [
        ("version: [", "neither JSON nor YAML"),
        (json.dumps({"version": 0.1, "phases": {}}), "version: 0.1"),
        (spec(), "at least one phase"),
        (spec("true", env={"shell": "powershell"}), "env.shell: 'powershell'"),
        (json.dumps({"version": 0.2, "phases": {"build": {}}}), "env.shell: None"),
        (spec("true", env={"git-credential-helper": "yes"}), "env: git-credential-helper"),
        (spec(build={"commands": ["true"], "on-failure": "CONTINUE"}), "'CONTINUE'"),
        (spec(build={"commands": "true"}), "phases.build.commands: must be a list"),
        (spec(deploy={"commands": ["true"]}), "phases: deploy"),
        (json.dumps({**json.loads(spec("true")), "artifacts": {"files": ["a"]}}), "artifacts"),
    ],
)
def test_a_buildspec_that_cannot_be_executed_fails_before_its_first_phase(
    cloud: Cloud, buildspec: str, because: str
) -> None:
    build = run(cloud, project(cloud, buildspec))
    assert build["buildStatus"] == "FAILED"
    assert "INSTALL" not in phases(build)
    assert problem(build).startswith("YAML_FILE_ERROR: ")
    assert because in problem(build)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ({"sourceTypeOverride": "GITHUB"}, "InvalidInputException"),
        ({"artifactsOverride": {"type": "S3"}}, "InvalidInputException"),
        ({"cacheOverride": {"type": "LOCAL"}}, "InvalidInputException"),
        ({"environmentTypeOverride": "WINDOWS_CONTAINER"}, "InvalidInputException"),
        ({"gitCloneDepthOverride": 1}, "InvalidInputException"),
        ({"timeoutInMinutesOverride": 2161}, "InvalidInputException"),
        ({"environmentVariablesOverride": [{"name": "A-B", "value": ""}]}, "InvalidInputException"),
        (
            {"environmentVariablesOverride": [{"name": "CODEBUILD_X", "value": ""}]},
            "InvalidInputException",
        ),
        ({"projectName": "no-such-project"}, "ResourceNotFoundException"),
    ],
)
def test_a_build_that_would_ignore_a_parameter_is_not_started(
    cloud: Cloud, override: dict[str, Any], code: str
) -> None:
    name = project(cloud, spec("true"))
    with pytest.raises(ClientError) as caught:
        cloud.client("codebuild").start_build(**{"projectName": name, **override})
    assert refused(caught) == code
    assert cloud.client("codebuild").list_builds_for_project(projectName=name)["ids"] == []


def test_a_request_overrides_the_project_which_overrides_the_buildspec(cloud: Cloud) -> None:
    show = 'echo "$A $B $C $CODEBUILD_BUILD_IMAGE"'
    buildspec = spec("false", env={"variables": {"A": "spec", "B": "spec", "C": "spec"}})
    own = [{"name": name, "value": "project"} for name in ("B", "C")]
    name = project(cloud, buildspec, environment={"environmentVariables": own})
    build = run(
        cloud,
        name,
        buildspecOverride=spec(show, env=json.loads(buildspec)["env"]),
        environmentVariablesOverride=[
            {"name": "C", "value": "it's $A `x`\n2", "type": "PLAINTEXT"}
        ],
        imageOverride="other/image:1",
        timeoutInMinutesOverride=7,
    )
    assert output(cloud, build) == ["spec project it's $A `x`", "2 other/image:1"]
    assert build["timeoutInMinutes"] == 7
    again = run(cloud, name)
    assert (again["buildStatus"], again["environment"]["image"]) == (
        "FAILED",
        "aws/codebuild/standard:7.0",
    )


def test_the_log_goes_where_the_configuration_says(cloud: Cloud) -> None:
    group = unique("group")
    config = {"cloudWatchLogs": {"status": "ENABLED", "groupName": group}}
    name = project(cloud, spec("echo hello"), logsConfig=config)
    assert cloud.client("codebuild").batch_get_projects(names=[name])["projects"][0]["logsConfig"]
    build = run(cloud, name)
    unique_part = build["id"].rpartition(":")[2]
    assert (build["logs"]["groupName"], build["logs"]["streamName"]) == (group, unique_part)
    named = {"cloudWatchLogs": {"status": "ENABLED", "groupName": group, "streamName": "run/image"}}
    build = run(cloud, name, logsConfigOverride=named)
    assert build["logs"]["streamName"] == f"run/image/{build['id'].rpartition(':')[2]}"
    assert output(cloud, build) == ["hello"]
    off = {"cloudWatchLogs": {"status": "DISABLED"}}
    assert "groupName" not in run(cloud, name, logsConfigOverride=off)["logs"]
    streams = cloud.client("logs").describe_log_streams(logGroupName=group)["logStreams"]
    assert len(streams) == 2


def test_the_source_is_a_zip_in_s3(cloud: Cloud) -> None:
    s3, bucket = cloud.client("s3"), unique("sources")
    s3.create_bucket(Bucket=bucket)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ci/spec.yml", spec("cat data/file; basename $CODEBUILD_SRC_DIR"))
        archive.writestr("data/file", "from the source\n")
    s3.put_object(Bucket=bucket, Key="code.zip", Body=packed.getvalue())
    role = service_role(cloud, LOGS, {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"})
    source = {"type": "S3", "location": f"{bucket}/code.zip"}
    name = project(cloud, "ci/spec.yml", source=source, serviceRole=role)
    assert output(cloud, run(cloud, name)) == ["from the source", "src"]
    missing = run(cloud, name, sourceLocationOverride=f"{bucket}/none.zip")
    assert phases(missing)["DOWNLOAD_SOURCE"] == "FAILED"
    assert "NoSuchKey" in problem(missing)
    absent = run(cloud, name, buildspecOverride="../../../etc/spec.yml")
    assert "no such file" in problem(absent)


def test_values_come_from_parameters_and_secrets(cloud: Cloud) -> None:
    parameter, secret = f"/{unique('parameter')}", unique("secret")
    cloud.client("ssm").put_parameter(Name=parameter, Value="p1", Type="SecureString")
    secrets = cloud.client("secretsmanager")
    arn = secrets.create_secret(Name=secret, SecretString='{"key": "s1", "n": 2}')["ARN"]
    env = {
        "parameter-store": {"P": parameter},
        "secrets-manager": {"S": f"{secret}:key", "T": f"{arn}:n:AWSCURRENT"},
    }
    reads = {
        "Effect": "Allow",
        "Action": ["ssm:GetParameters", "secretsmanager:GetSecretValue"],
        "Resource": "*",
    }
    role = service_role(cloud, LOGS, reads)
    name = project(cloud, spec('echo "$P $S $T $U"', env=env), serviceRole=role)
    override = [{"name": "U", "value": secret, "type": "SECRETS_MANAGER"}]
    build = run(cloud, name, environmentVariablesOverride=override)
    assert output(cloud, build) == ['p1 s1 2 {"key": "s1", "n": 2}']
    for wrong, kind in ((f"{secret}:none", "SECRETS_MANAGER"), ("/none", "PARAMETER_STORE")):
        override = [{"name": "U", "value": wrong, "type": kind}]
        build = run(cloud, name, environmentVariablesOverride=override)
        assert phases(build)["DOWNLOAD_SOURCE"] == "FAILED"
        assert wrong in problem(build)


def test_a_stopped_build_leaves_no_process_wherever_it_hid(cloud: Cloud, tmp_path: Path) -> None:
    hides = f"setsid bash -c 'trap \"\" TERM HUP; echo $$ >{tmp_path}/hidden; sleep 600' & wait"
    name = project(cloud, spec(build={"commands": [hides], "finally": ["echo never"]}))
    codebuild = cloud.client("codebuild")
    build_id = codebuild.start_build(projectName=name)["build"]["id"]
    hidden = int(
        eventually(lambda: (tmp_path / "hidden").exists() and (tmp_path / "hidden").read_text())
    )
    assert is_running(hidden)
    with pytest.raises(ClientError):
        cloud.client("codebuild").stop_build(id="none:none")
    assert codebuild.batch_delete_builds(ids=[build_id])["buildsNotDeleted"]
    stopped = codebuild.stop_build(id=build_id)["build"]
    assert stopped["buildStatus"] == "STOPPED"
    eventually(lambda: not is_running(hidden))
    build = ended(cloud, build_id)
    assert (phases(build)["BUILD"], output(cloud, build)) == ("STOPPED", [])
    assert codebuild.stop_build(id=build["arn"])["build"]["endTime"] == build["endTime"]
    assert codebuild.batch_delete_builds(ids=[build_id])["buildsDeleted"] == [build_id]


def test_stopping_a_build_that_has_ended_changes_nothing(cloud: Cloud) -> None:
    build = run(cloud, project(cloud, spec("true")))
    stopped = cloud.client("codebuild").stop_build(id=build["id"])["build"]
    assert stopped["buildStatus"] == "SUCCEEDED"


def test_what_a_build_leaves_running_ends_with_it(cloud: Cloud, tmp_path: Path) -> None:
    left = f"setsid sleep 600 & echo $! >{tmp_path}/left"
    build = run(cloud, project(cloud, spec(left)))
    assert build["buildStatus"] == "SUCCEEDED"
    eventually(lambda: not is_running(int((tmp_path / "left").read_text())))
    assert not (cloud.endpoint.home / "builds" / build["id"].rpartition(":")[2]).exists()


def test_a_build_ends_at_its_time_limit(cloud: Cloud, tmp_path: Path) -> None:
    cloud.admin.set_knobs(build_timeout_scale=1 / 300)
    sleeps = f"setsid sleep 600 & echo $! >{tmp_path}/pid; wait"
    buildspec = spec(sleeps, post_build={"commands": ["echo never"]})
    build = run(cloud, project(cloud, buildspec), timeoutInMinutesOverride=5)
    assert (build["buildStatus"], phases(build)["BUILD"]) == ("TIMED_OUT", "TIMED_OUT")
    assert output(cloud, build) == []
    eventually(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_a_repeated_token_starts_no_second_build(cloud: Cloud) -> None:
    codebuild, name, token = cloud.client("codebuild"), project(cloud, spec("true")), unique("t")
    request = {"projectName": name, "idempotencyToken": token}
    first = codebuild.start_build(**request)["build"]["id"]
    assert codebuild.start_build(**request)["build"]["id"] == first
    with pytest.raises(ClientError) as caught:
        codebuild.start_build(**request, imageOverride="other")
    assert refused(caught) == "InvalidInputException"
    assert codebuild.list_builds_for_project(projectName=name)["ids"] == [first]


def test_events_report_the_start_and_the_end(cloud: Cloud) -> None:
    name = project(cloud, spec("false"))
    pattern = {
        "source": ["aws.codebuild"],
        "detail-type": ["CodeBuild Build State Change"],
        "detail": {"project-name": [name]},
    }
    read = cloud.queue_for(pattern)
    build = run(cloud, name)
    events = eventually(lambda: len(read()) >= 2 and read())
    assert [event["detail"]["build-status"] for event in events] == ["IN_PROGRESS", "FAILED"]
    last = events[-1]
    assert last["resources"] == [build["arn"]]
    assert last["detail"]["build-id"] == build["arn"]
    information = last["detail"]["additional-information"]
    assert information["build-complete"] is True
    assert information["logs"]["stream-name"] == build["logs"]["streamName"]
    assert "FAILED" in [phase.get("phase-status") for phase in information["phases"]]


def test_a_build_does_not_see_the_developers_environment_or_docker(cloud: Cloud) -> None:
    build = run(cloud, project(cloud, spec("env -0 | sort -z | tr '\\0' '\\n'")))
    names = {line.partition("=")[0]: line.partition("=")[2] for line in output(cloud, build)}
    assert not {"PYTHONPATH", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "USER"} & set(names)
    assert names["CODEBUILD_BUILD_ID"] == build["id"]
    assert names["AWS_REGION"] == "us-east-1"
    # The project is not privileged.
    assert names["DOCKER_HOST"].endswith("/no-docker.sock")
    assert os.fspath(cloud.endpoint.home) in names["HOME"]


def test_the_programs_of_a_build_have_the_rights_of_the_service_role(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    allowed = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::mine-*"}
    mine, other = unique("mine"), unique("other")
    for bucket in (mine, other):
        cloud.client("s3").create_bucket(Bucket=bucket)
        cloud.client("s3").put_object(Bucket=bucket, Key="k", Body=b"")
    role = service_role(cloud, LOGS, allowed)
    commands = ["aws sts get-caller-identity --query Arn --output text", f"aws s3 ls s3://{mine}"]
    build = run(
        cloud,
        project(cloud, spec(*commands, f"aws s3 ls s3://{other} || true"), serviceRole=role),
    )
    text = "\n".join(output(cloud, build))
    session = f"AWSCodeBuild-{build['id'].rpartition(':')[2]}"
    assert f":assumed-role/{role.rpartition('/')[2]}/{session}" in text
    assert text.count(" k") == 1
    assert "AccessDenied" in text


def test_a_role_that_may_not_write_logs_or_be_assumed_runs_nothing(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    silent = run(cloud, project(cloud, spec("true"), serviceRole=service_role(cloud)))
    assert silent["buildStatus"] == "FAILED"
    assert "ACCESS_DENIED" in problem(silent)
    assert "logs:CreateLogStream" in problem(silent)
    untrusting = project(cloud, spec("true"), serviceRole=service_role(cloud, LOGS, trust=TRUST))
    with pytest.raises(ClientError) as caught:
        cloud.client("codebuild").start_build(projectName=untrusting)
    assert "sts:AssumeRole" in str(caught.value)


def test_a_source_or_value_that_the_role_may_not_read_fails_the_build(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    bucket, secret = unique("sources"), unique("secret")
    cloud.client("s3").create_bucket(Bucket=bucket)
    cloud.client("s3").put_object(Bucket=bucket, Key="code.zip", Body=b"zip")
    cloud.client("secretsmanager").create_secret(Name=secret, SecretString="value")
    name = project(cloud, spec("true"), serviceRole=service_role(cloud, LOGS))
    code = {"sourceTypeOverride": "S3", "sourceLocationOverride": f"{bucket}/code.zip"}
    value = [{"name": "A", "value": secret, "type": "SECRETS_MANAGER"}]
    for fields in (code, {"environmentVariablesOverride": value}):
        build = run(cloud, name, **fields)
        assert phases(build)["DOWNLOAD_SOURCE"] == "FAILED"
        assert "AccessDenied" in problem(build)


def test_a_caller_needs_the_right_to_start_and_stop_builds(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    name = project(cloud, spec("sleep 600"))
    arn = f"arn:aws:codebuild:us-east-1:000000000000:project/{name}"
    may_start = {"Effect": "Allow", "Action": "codebuild:StartBuild", "Resource": arn}
    starter = cloud.client("codebuild", **cloud.assume(cloud.role(may_start)))
    build_id = starter.start_build(projectName=name)["build"]["id"]
    for refused_call in (
        lambda: starter.stop_build(id=build_id),
        lambda: starter.batch_get_builds(ids=[build_id]),
        lambda: starter.start_build(projectName=project(cloud, spec("true"))),
    ):
        with pytest.raises(ClientError) as caught:
            refused_call()
        assert "AccessDenied" in refused(caught)
    others = {"Effect": "Allow", "Action": "codebuild:*", "Resource": arn}
    owner = cloud.client("codebuild", **cloud.assume(cloud.role(others)))
    assert owner.stop_build(id=build_id)["build"]["buildStatus"] == "STOPPED"
    assert describe(cloud, build_id)["buildComplete"]


def test_a_build_ends_with_the_local_cloud(tmp_path: Path) -> None:
    endpoint = daemon.start(tmp_path / "cloud", die_with_parent=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        name = project(cloud, spec(f"echo $BASHPID >{tmp_path}/pid; sleep 600"))
        cloud.client("codebuild").start_build(projectName=name)
        pid = int(
            eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        )
    finally:
        daemon.stop(endpoint.home)
    assert not is_running(pid)
    assert not (endpoint.home / "builds").exists()
