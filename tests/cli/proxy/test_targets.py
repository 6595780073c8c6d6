"""Which servers of a service get requests, as the ledger and their tunnels say."""

import asyncio

import pytest

from runctl.cli.proxy.targets import Address, RunOver, Targets, find_ready
from runctl.cli.proxy.tunnel import Plugin, find_plugin
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.node import NodeId, NodeProgress
from runctl.model.service import Service
from tests.control.scenes import ARN, RUN, launched, prepared, training
from tests.control.steps import finish_run


def become_ready(world, number, *, is_ready=True):
    now = world.clock.now()
    progress = NodeProgress(service=Service(port=8080, is_ready=is_ready, since=now))
    world.ledger.record_progress(NodeId(RUN, number, 0), progress, now=now)


def test_the_newest_ready_server_gets_requests():
    world = prepared(kind="serve")
    assert find_ready(world.ledger, RUN) is None
    first = training(world)
    assert find_ready(world.ledger, RUN) is None
    become_ready(world, 1)
    assert find_ready(world.ledger, RUN) == Address(first, 8080, RUN, 1)
    second = launched(world, 2)
    assert find_ready(world.ledger, RUN) == Address(first, 8080, RUN, 1)
    # Before it has the fence, during the notice of the first.
    become_ready(world, 2)
    assert find_ready(world.ledger, RUN) == Address(second, 8080, RUN, 2)
    become_ready(world, 2, is_ready=False)
    assert find_ready(world.ledger, RUN) == Address(first, 8080, RUN, 1)


def test_the_end_of_the_run_and_a_run_that_does_not_exist_are_told_apart():
    world = prepared(kind="serve")
    training(world)
    become_ready(world, 1)
    finish_run(world, RUN, status="stopped", reason="stopped by the user", execution_arn=ARN)
    with pytest.raises(RunOver, match="run-1 has ended: stopped; stopped by the user"):
        find_ready(world.ledger, RUN)
    with pytest.raises(NotFoundError):
        find_ready(world.ledger, "another")


class OpenTunnel:
    """A tunnel as far as the choice goes."""

    def __init__(self, connections, *, is_open=True, is_suspect=False):
        self.connections, self.is_open, self.is_suspect = connections, is_open, is_suspect


def test_the_tunnel_with_the_fewest_connections_is_chosen_among_those_that_work():
    async def choose(*tunnels):
        targets = Targets(
            None, None, Plugin(("true",)), run_ids=["a"], pause=1, announce=lambda text: None
        )
        targets._current = {str(number): (None, each) for number, each in enumerate(tunnels)}
        return targets.choose()

    idle, busy = OpenTunnel(1), OpenTunnel(3)
    assert asyncio.run(choose(busy, idle)) is idle
    assert asyncio.run(choose(busy, OpenTunnel(0, is_open=False))) is busy
    assert asyncio.run(choose(busy, OpenTunnel(0, is_suspect=True))) is busy
    assert asyncio.run(choose()) is None


def test_without_awss_plugin_the_message_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="session-manager-plugin is missing"):
        find_plugin(is_local=False)


@pytest.mark.parametrize(
    ("version", "reads_variable"), [("1.2.497.0", False), ("1.2.764.0", True), ("dev", False)]
)
def test_the_token_is_given_by_a_variable_to_plugins_that_read_it(
    monkeypatch, tmp_path, version, reads_variable
):
    program = tmp_path / "session-manager-plugin"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_plugin(is_local=False).reads_variable is reads_variable
