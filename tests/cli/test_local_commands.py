"""`runctl local …` against a real local cloud, and `--local` that leaves the environment alone."""

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient


@pytest.fixture
def endpoint(tmp_path):
    started = daemon.start(tmp_path / "local-cloud", die_with_parent=True)
    yield started
    daemon.stop(started.home)


pytestmark = pytest.mark.slow


def test_status_shows_where_it_is_and_what_is_there(endpoint, runctl):
    document = runctl("local", "status", "--json").document
    assert (document["endpoint"], document["instances"]) == (endpoint.url, [])
    assert endpoint.url in runctl("local", "status").stdout


def test_capacity_reaches_the_market(endpoint, runctl):
    assert runctl("local", "capacity", "m5.large/us-east-1a/spot", "0").code == 0
    calls = LocalCloudClient(endpoint.url)
    assert calls.health()
    bad = runctl("local", "capacity", "m5.large", "0")
    assert (bad.code, "POOL: 'm5.large' is no pool" in bad.stderr) == (2, True)


def test_a_local_cloud_without_a_deployment_is_told(endpoint, runctl):
    done = runctl("--local", "list")
    assert (done.code, "nothing is deployed" in done.stderr) == (4, True)


def test_the_users_own_credentials_do_not_matter(endpoint, runctl):
    env = {
        "AWS_PROFILE": "nobody", "AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "mine",
        "AWS_SESSION_TOKEN": "mine", "AWS_REGION": "mars-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }  # fmt: skip
    done = runctl("--local", "list", env=env)
    assert (done.code, "nothing is deployed in us-east-1" in done.stderr) == (4, True)


def test_down_ends_it_and_a_second_time_is_fine(endpoint, runctl):
    assert runctl("local", "down", "--json").document == {"was_up": True}
    assert daemon.find(endpoint.home) is None
    again = runctl("local", "down")
    assert (again.code, "no local cloud ran" in again.stdout) == (0, True)
