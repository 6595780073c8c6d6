"""`runctl local …` against a real local cloud, and `--local`, which ignores AWS variables."""

from dataclasses import replace

import boto3
import pytest

from runctl.cli.commands.local.local_cloud import instance_of
from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from runctl.model.errors import NotFoundError
from runctl.model.node import Node
from tests.attempts import make_attempt


@pytest.fixture
def endpoint(tmp_path):
    started = daemon.start(tmp_path / "local-cloud", die_with_parent=True)
    yield started
    daemon.stop(started.home)


pytestmark = pytest.mark.slow


def test_status_shows_the_endpoint_and_the_instances(endpoint, runctl):
    document = runctl("local", "status", "--json").document
    assert (document["endpoint"], document["instances"]) == (endpoint.url, [])
    assert endpoint.url in runctl("local", "status").stdout


def test_env_prints_the_variables_and_no_other_command_prints_a_key(endpoint, runctl):
    printed = runctl("local", "env")
    words = [word for line in printed.stdout.splitlines() for word in line.split()[1:]]
    variables = dict(word.split("=", 1) for word in words)
    assert runctl("local", "env", "--json").document == endpoint.environment()
    sts = boto3.client(
        "sts",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )
    assert sts.get_caller_identity()["Account"] == endpoint.account
    for words in (("local", "status"), ("local", "status", "--json"), ("--local", "list")):
        shown = runctl(*words)
        for secret in (endpoint.keys.admin, endpoint.keys.secret_access_key):
            assert secret not in shown.stdout + shown.stderr


def test_capacity_reaches_the_market(endpoint, runctl):
    assert runctl("local", "capacity", "m5.large/us-east-1a/spot", "0").code == 0
    calls = LocalCloudClient(endpoint.url)
    assert calls.health()
    bad = runctl("local", "capacity", "m5.large", "0")
    assert (bad.code, "POOL: 'm5.large' is not a pool" in bad.stderr) == (2, True)
    for wrong, expected in {
        "m5.lagre/us-east-1a/spot": "POOL: 'm5.lagre' is not a known instance type; did you mean",
        "m5.large/us-east-1a/sport": "'m5.large/us-east-1a/sport': a pool must end in /spot",
        "m5.large/us-west-1a/spot": "'us-west-1a' is not a known zone; did you mean 'us-east-1a'?",
    }.items():
        bad = runctl("local", "capacity", wrong, "0")
        assert (bad.code, expected in " ".join(bad.stderr.split())) == (2, True), bad.stderr


def test_a_quota_is_set_by_its_code_and_a_wrong_code_is_refused(endpoint, runctl):
    assert runctl("local", "quota", "L-3819A6DF", "0").code == 0
    assert LocalCloudClient(endpoint.url).knobs()["vcpu_quotas"] == {"L-3819A6DF": 0}
    bad = runctl("local", "quota", "L-3819A6D", "0")
    expected = "CODE: 'L-3819A6D' is not a known quota; did you mean 'L-3819A6DF'?"
    assert (bad.code, expected in " ".join(bad.stderr.split())) == (2, True), bad.stderr


def test_a_local_cloud_without_a_deployment_is_reported(endpoint, runctl):
    done = runctl("--local", "list")
    assert (done.code, "nothing is deployed" in done.stderr) == (4, True)


def test_the_users_own_credentials_do_not_matter(endpoint, runctl):
    env = {
        "AWS_PROFILE": "nobody", "AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "mine",
        "AWS_SESSION_TOKEN": "mine", "AWS_REGION": "mars-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }  # fmt: skip
    done = runctl("--local", "list", env=env)
    assert (done.code, "nothing is deployed in us-east-1" in done.stderr) == (4, True)


def test_down_stops_it_and_again_is_not_an_error(endpoint, runctl):
    assert runctl("local", "down", "--json").document == {"was_up": True}
    assert daemon.find(endpoint.home) is None
    again = runctl("local", "down")
    assert (again.code, "no local cloud was running" in again.stdout) == (0, True)


def test_a_disk_size_that_cannot_be_enforced_is_refused(endpoint, runctl):
    for size in ("0", "16385", "-1", "much"):
        done = runctl("local", "up", "--disk-gib", size)
        assert (done.code, "--disk-gib" in done.stderr) == (2, True)
    large = runctl("local", "up", "--disk-gib", "16384")
    assert (large.code, "more than this machine's memory" in large.stderr) == (2, True)
    # A running local cloud can no longer mount disks.
    late = runctl("local", "up", "--disk-gib", "1")
    assert (late.code, "stop it first with `runctl local down`" in late.stderr) == (3, True)


def test_a_notice_that_is_not_sent_has_no_length(endpoint, runctl):
    done = runctl("local", "interrupt", "lm", "--no-notice", "--notice-seconds", "5")
    assert (done.code, "--notice-seconds" in done.stderr) == (2, True)


def test_unknown_faults_are_refused(endpoint, runctl):
    for arguments, expected in [
        (("interrupt", "lm", "--no-notice", "--reservation"), "--no-notice"),
        (("fail-check", "lm", "--check", "disk"), "'disk' is not one of system, instance, ebs"),
        (("maintain", "lm", "--code", "reboot"), "'reboot' is not one of instance-reboot"),
        (("maintain", "lm", "--in-seconds", "-1"), "--in-seconds"),
    ]:
        done = runctl("local", *arguments)
        assert (done.code, expected in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_settings_of_the_start_are_refused_once_it_runs(endpoint, tmp_path):
    with pytest.raises(daemon.LocalCloudStartError, match="disk_bytes, shared_folders cannot"):
        daemon.start(endpoint.home, disk_bytes=2**30, shared_folders=[tmp_path])
    assert daemon.start(endpoint.home) == endpoint


def test_status_shows_the_isolation_of_instances(runctl, tmp_path):
    home = tmp_path / "local-cloud"
    daemon.start(home, die_with_parent=True, disk_bytes=2**30, own_paths=False)
    try:
        done = runctl("local", "status")
        health = runctl("local", "status", "--json").document["health"]
        late = runctl("local", "up", "--own-user")
    finally:
        daemon.stop(home)
    assert "each instance has a disk of 1 GiB" in done.stdout
    said = " ".join(done.stdout.split())
    assert "share this machine's /tmp: it was started with this setting" in said
    assert "instances have no Docker engine: " in said
    assert (
        f"programs run as the user of the local cloud ({health['shares_user_because']}): " in said
    )
    assert (health["disk_bytes"], health["own_paths"], health["own_user"]) == (2**30, False, False)
    assert (late.code, "own_user: not possible here: " in late.stderr) == (3, True)


def test_help_of_terminate_says_that_yes_is_required_without_a_terminal(runctl):
    expected = " ".join(runctl("aws", "terminate", "--help").stdout.replace("│", " ").split())
    assert "required without a terminal" in expected


def test_a_node_of_a_run_is_chosen_by_its_rank():
    nodes = [Node(run_id="ddp", attempt=2, rank=rank, instance_id=f"i-{rank}") for rank in (0, 1)]
    attempt = replace(make_attempt(2, run_id="ddp"), nodes=tuple(nodes))
    assert (instance_of(attempt, 0), instance_of(attempt, 1)) == ("i-0", "i-1")
    with pytest.raises(NotFoundError, match="attempt 2 of ddp has no node of rank 2; its ranks"):
        instance_of(attempt, 2)
