"""A deployment of another version: commands name the remedy and never print a traceback."""

import json

import pytest

from runctl import __version__
from runctl.aws.deployment import explain_difference

OPTIONAL = (
    "security_group", "dead_letters", "start_document", "monitor_document", "instance_policy",
    "subnets", "own_images", "name",
)  # fmt: skip


def held(deployed) -> dict:
    found = deployed.clients.get("ssm").get_parameter(Name="/runctl/deployment")
    return json.loads(found["Parameter"]["Value"])


def test_a_deployment_of_an_older_version_is_used_with_a_warning_that_names_the_remedy(
    runctl, deployed
):
    deployed.put_parameter(**{**held(deployed), "version": "0.0.9"})
    done = runctl("list")
    assert done.code == 0
    assert f"has version 0.0.9, this command {__version__}" in " ".join(done.stderr.split())
    assert "cdk deploy --all" in " ".join(done.stderr.split())


def test_a_deployment_of_this_version_is_used_without_a_warning(runctl, deployed):
    deployed.put_parameter(**{**held(deployed), "version": __version__})
    assert "version" not in runctl("list").stderr


@pytest.mark.parametrize(
    ("deployed", "command", "remedy"),
    [
        ("0.9.0", "0.10.0", "cdk deploy --all"),
        ("0.10.0", "0.9.0", "install the version of the deployment"),
        ("1.0.0.dev1", "1.0.0", "install"),
        ("", "1.0.0", "cdk deploy --all"),
    ],
)
def test_the_older_of_command_and_deployment_is_to_be_upgraded(deployed, command, remedy):
    assert remedy in explain_difference(deployed, command)


@pytest.mark.parametrize("command", [["list"], ["doctor"], ["status", "a-run"], ["aws", "create"]])
def test_fields_added_by_newer_versions_may_be_missing(runctl, deployed, command):
    values = {key: value for key, value in held(deployed).items() if key not in OPTIONAL}
    deployed.put_parameter(**values)
    done = runctl(*command)
    assert done.code in {0, 1, 4}
    assert "Traceback" not in done.stderr
    if command[-1] == "create":
        assert "too old for this command; run `cdk deploy`" in " ".join(done.stderr.split())


@pytest.mark.parametrize("field", ["bucket", "table", "zones", "command_document"])
def test_a_deployment_that_is_too_old_is_refused_with_the_remedy(runctl, deployed, field):
    values = held(deployed)
    del values[field]
    deployed.put_parameter(**values)
    done = runctl("list")
    assert done.code == 4
    expected = " ".join(done.stderr.split())
    assert f"too old (no {field})" in expected
    assert "cdk deploy --all" in expected


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "null"])
def test_an_invalid_deployment_parameter_is_refused_with_the_remedy(runctl, deployed, text):
    deployed.clients.get("ssm").put_parameter(
        Name="/runctl/deployment", Type="String", Value=text or " ", Overwrite=True
    )
    done = runctl("list")
    assert done.code == 4
    assert "deploy again" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_deployment_of_another_name_is_found_by_that_name(runctl, deployed, monkeypatch):
    monkeypatch.setenv("RUNCTL_DEPLOYMENT", "second")
    done = runctl("list")
    assert done.code == 4
    assert "/second/deployment is missing" in " ".join(done.stderr.split())


def test_a_name_that_no_deployment_has_is_refused(runctl, deployed, monkeypatch):
    monkeypatch.setenv("RUNCTL_DEPLOYMENT", "../other")
    done = runctl("list")
    assert done.code == 2
    assert "RUNCTL_DEPLOYMENT: '../other' is not a valid name" in " ".join(done.stderr.split())
