"""A launch request takes effect once, even if its answer was lost."""

import json
import os
import subprocess
import sys
import time

import pytest

from runctl.aws.fleet import Ec2Fleet
from runctl.cli.commands.aws.creating import REPEATED_WITHIN, default_folder, replayable
from runctl.model.errors import CapacityUnavailableError, TransientError, UnexpectedAwsError
from runctl.model.machine import LaunchResult
from runctl.model.pool import Pool


@pytest.fixture
def ask(tmp_path):
    """Request an instance; each new request has a new number."""
    numbers = iter(range(1, 100))

    def once(key="a", *, error=None):
        with replayable(
            key, lambda: {"request": str(next(numbers))}, folder=tmp_path / "creating"
        ) as (asked, is_repeat):
            if error is not None:
                raise error
        return asked["request"], is_repeat

    return once


def lose(ask, error, key="a"):
    with pytest.raises(type(error)):
        ask(key, error=error)


@pytest.mark.parametrize("error", [TransientError("timeout"), KeyboardInterrupt()])
def test_a_request_without_an_answer_is_repeated_until_it_has_one(ask, error):
    lose(ask, error)
    lose(ask, error)
    assert ask() == ("1", True)
    assert ask() == ("2", False)


@pytest.mark.parametrize(
    "error",
    [
        CapacityUnavailableError("none"),
        UnexpectedAwsError("no", code="InvalidParameter"),
    ],
)
def test_a_refusal_is_an_answer(ask, error):
    lose(ask, error)
    assert ask() == ("2", False)


def test_a_different_wish_launches_a_different_instance(ask):
    lose(ask, TransientError("timeout"))
    assert ask("b") == ("2", False)
    assert ask() == ("1", True)


def test_a_request_that_is_too_old_is_not_repeated(ask, tmp_path):
    lose(ask, TransientError("timeout"))
    (record,) = (tmp_path / "creating").iterdir()
    long_ago = time.time() - REPEATED_WITHIN.total_seconds() - 1
    os.utime(record, (long_ago, long_ago))
    assert ask() == ("2", False)
    assert not list((tmp_path / "creating").iterdir())


def test_two_concurrent_requests_launch_two_instances_unless_one_is_killed(ask, tmp_path):
    program = f"""
import pathlib, sys
from runctl.cli.commands.aws.creating import replayable
folder = pathlib.Path({str(tmp_path)!r}) / "creating"
with replayable("a", lambda: {{"request": "theirs"}}, folder=folder):
    print("asked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"asked\n"
        assert ask() == ("1", False)
        other.kill()
    assert ask() == ("theirs", True)


def test_launching_works_without_a_writable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with replayable("a", lambda: {"request": "1"}, folder=tmp_path / "file") as asked:
        assert asked == ({"request": "1"}, False)


@pytest.mark.parametrize("is_throttled", [False, True])
def test_create_repeats_the_same_request_after_a_lost_answer(
    runctl, deployed, monkeypatch, is_throttled
):
    deployed.put_parameter(
        **json.loads(
            deployed.clients.get("ssm").get_parameter(Name="/runctl/deployment")["Parameter"][
                "Value"
            ]
        )
        | {"subnets": {"us-east-1a": "subnet-1"}, "launch_templates": {"x86_cpu": "lt-1"}}
    )
    sent = []

    def launch(_self, request):
        sent.append(request)
        if len(sent) == 1 and is_throttled:
            pool = Pool("m5.large", "us-east-1a", "on-demand")
            return LaunchResult(
                instance_ids=(),
                pool=None,
                refusals={pool: "RequestLimitExceeded"},
                market="on-demand",
            )
        if len(sent) == 1:
            raise TransientError("AWS cannot be reached: the answer timed out")
        return LaunchResult(
            instance_ids=(f"i-{len(sent)}",),
            pool=Pool("m5.large", "us-east-1a", "on-demand"),
            refusals={},
            market="on-demand",
        )

    monkeypatch.setattr(Ec2Fleet, "launch", launch)
    words = ("aws", "create", "--instance-type", "m5.large", "--no-wait", "--output", "instance-id")
    assert runctl(*words).code == 3
    again = runctl(*words)
    assert (again.code, again.stdout) == (0, "i-2\n")
    assert "not answered" in again.stderr
    assert sent[0] == sent[1]
    assert runctl(*words).stdout == "i-3\n"
    assert json.loads(sent[2])["ClientToken"] != json.loads(sent[0])["ClientToken"]
    assert not list(default_folder().iterdir())
