"""Runs of several nodes, with real torchrun and Gloo, lose nodes in every way that EC2 has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.model.outcome import OutcomeKind
from tests.e2e.books import check_machines
from tests.e2e.gangs import GangRun, uninterrupted
from tests.e2e.testbed import Testbed

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], dict[str, Any]]]:
    """The result of two ranks that nobody interrupts, which is computed meanwhile."""
    with uninterrupted(tmp_path_factory.mktemp("uninterrupted"), ranks=2) as result:
        yield result


@pytest.fixture
def has_networks(testbed: Testbed) -> bool:
    """Give nodes networks of their own where this is possible, and say so."""
    possible = not testbed.cloud.health()["shares_network_because"]
    testbed.cloud.set_knobs(boot_delay=0.05, agent_delay=0.05, own_networks=possible)
    return possible


@pytest.fixture
def run(testbed: Testbed, new_name: Callable[[], str], tmp_path: Path) -> GangRun:
    control = tmp_path / "control"
    control.mkdir()
    testbed.let_programs_write(control)
    return GangRun(testbed, new_name(), control)


def test_a_gang_loses_nodes_in_every_way_and_ends_with_the_same_bits(
    testbed: Testbed,
    run: GangRun,
    has_networks: bool,
    expected: Callable[[], dict[str, Any]],
) -> None:
    run.hold("join", rank=1)
    run.start(checkpoints="sharded", nodes=2, instance_types=["m5.large"])

    # During the rendezvous: rank 0 waits in it for the lost one.
    run.wait_for("process", attempt=1, ranks=2)
    survivor, lost = run.instance(1, 0), run.instance(1, 1)
    run.lose(1, attempt=1)
    ended = run.wait_for_end_of(1)
    assert ended.kind in {OutcomeKind.INTERRUPTED, OutcomeKind.LOST}
    assert lost in ended.reason
    run.release("join", rank=1)

    # With a notice: both ranks save at the same step, whichever that is.
    run.wait_for("joined", attempt=2, ranks=2)
    assert run.instance(2, 0) == survivor
    run.wait_for_step(7, attempt=2)
    run.lose(1, attempt=2, notice=True)
    ended = run.wait_for_end_of(2)
    assert (ended.kind, ended.step) == (OutcomeKind.INTERRUPTED, 7), testbed.story(run.run_id)

    # The first rank, whose part of the newest checkpoint is stored: the other takes its place.
    run.wait_for("joined", attempt=3, ranks=2)
    run.wait_for_step(12, attempt=3)
    survivor = run.instance(3, 1)
    run.lose(0, attempt=3)
    ended = run.wait_for_end_of(3)
    assert run.instance(3, 0) in ended.reason

    # Both during a save, of which only the shards are written.
    run.wait_for("joined", attempt=4, ranks=2)
    assert run.instance(4, 0) == survivor
    run.hold("save", rank=1)
    run.go_to(16)
    run.wait_for("saving-15", attempt=4, ranks=2)
    run.lose(0, 1, attempt=4)
    run.wait_for_end_of(4)
    run.release("save", rank=1)
    run.wait_for("joined", attempt=5, ranks=2)

    # One rank loses its shard of step 20, which is then no checkpoint.
    (run.control / "lose").write_text("20")
    run.wait_for_step(16, attempt=5)
    run.go_to(21)
    run.wait_for_log(5, "the save is not whole yet: sharded-000020/__1_0.distcp")
    (run.control / "lose").unlink()
    assert testbed.run(run.run_id).step == 15

    if has_networks:
        # Nobody closes a connection: only the ledger shows that the node is silent.
        cut = run.instance(5, 0)
        testbed.cut_network(cut)
        ended = run.wait_for_end_of(5)
        assert (ended.kind, ended.lost_ranks) == (OutcomeKind.LOST, (0,)), ended
        assert cut in ended.reason
        assert "silent" in ended.reason

    attempts = run.finish()
    resumed = [attempt.resume_step or 0 for attempt in attempts]
    assert resumed == [0, 0, 7, 10, 10, 15][: len(attempts)], testbed.story(run.run_id)
    assert len(attempts) == (6 if has_networks else 5)
    assert testbed.result(run.run_id) == expected()
    testbed.verify_checkpoint_exists(run.run_id)
    check_machines(testbed, run.run_id)


def test_a_spare_takes_over_from_a_rank_of_three_that_hangs_and_then_two_are_enough(
    testbed: Testbed,
    run: GangRun,
    has_networks: bool,
    expected: Callable[[], dict[str, Any]],
) -> None:
    request = {"nodes": 3, "spares": 1, "min_nodes": 2, "instance_types": ["c5.large"]}
    run.start(checkpoints="file", **request)
    run.wait_for("joined", attempt=1, ranks=3)
    run.wait_for_step(6, attempt=1)
    for zone in ZONES:
        testbed.cloud.set_capacity(f"c5.large/{zone}/spot", 0)
        testbed.cloud.set_capacity(f"c5.large/{zone}/on-demand", 0)

    first, last, spare = (run.instance(1, rank) for rank in (0, 2, 3))
    run.stop_process(attempt=1, rank=1)
    ended = run.wait_for_end_of(1)
    assert ended.lost_ranks == (1,), testbed.story(run.run_id)
    assert run.instance(1, 1) in ended.reason
    run.wait_for("joined", attempt=2, ranks=3)
    assert [run.instance(2, rank) for rank in range(3)] == [first, last, spare]
    run.wait_for_step(11, attempt=2)

    run.lose(1, attempt=2)
    run.wait_for("joined", attempt=3, ranks=2)
    assert [run.instance(3, rank) for rank in range(2)] == [first, spare]
    attempts = run.finish()
    assert len(attempts) == 3
    result = testbed.result(run.run_id)
    assert result["world"] == 2
    assert result["loss"] == pytest.approx(expected()["loss"], rel=1e-4)
    assert [attempt.resume_step or 0 for attempt in attempts] == [0, 5, 10]
    check_machines(testbed, run.run_id)
