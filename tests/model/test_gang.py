"""What the nodes of a gang tell each other, and the fields of a request about them."""

from datetime import datetime, timezone

import pytest

from runctl.model.errors import InvalidRequestError
from runctl.model.gang import GangReport, NodeEnd, RankPulse
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request_parsing import parse_request

END = NodeEnd(
    at=datetime(2026, 1, 1, tzinfo=timezone.utc),
    outcome=Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="boom"),
    is_stored=True,
)
REPORT = GangReport(
    address="10.0.0.4",
    port=29501,
    is_ready=True,
    processes=2,
    prints={"code": "abc"},
    ranks=(
        RankPulse(
            entered=5,
            left=4,
            busy_seconds=1.5,
            idle_seconds=2.5,
            has_joined=True,
            still_seconds=3.5,
            is_suspended=True,
        ),
    ),
    files=3,
    part="runs/r/nodes/1",
    part_step=4,
    ended=END,
)


def test_a_report_is_read_back_unchanged():
    assert GangReport.from_document(REPORT.as_document()) == REPORT


@pytest.mark.parametrize(
    "document",
    [
        {"port": "x", "ranks": 7, "prints": [], "ended": []},
        {"ranks": [None, "abc", [1]], "ended": {"at": "soon"}, "part_step": "7"},
        {"ended": {"at": "2026-01-01T00:00:00", "outcome": {"kind": "failed"}}},
        {"ended": {"at": "2026-01-01T00:00:00+00:00", "outcome": "failed"}},
    ],
)
def test_a_report_of_another_version_is_read_as_far_as_possible(document):
    found = GangReport.from_document(document)
    assert found is not None
    assert (found.port, found.ended, found.part_step) == (0, None, None)


def request(**values):
    return parse_request({"script": "s3://bucket/train.py", **values})


def problems_of(**values):
    with pytest.raises(InvalidRequestError) as caught:
        request(**values)
    return {problem.field for problem in caught.value.problems}


def test_a_request_of_several_nodes():
    gang = request(nodes=4, min_nodes=2, spares=1, processes_per_node="auto").gang
    assert (gang.nodes, gang.fewest, gang.spares, gang.processes_per_node) == (4, 2, 1, 0)
    assert gang.is_gang
    assert not gang.replace_stragglers
    assert request(nodes=4).gang.fewest == 4
    assert not request().gang.is_gang


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"nodes": 0}, "nodes"),
        ({"nodes": 33}, "nodes"),
        ({"nodes": 2, "min_nodes": 3}, "min_nodes"),
        ({"min_nodes": 1}, "min_nodes"),
        ({"spares": 1}, "spares"),
        ({"nodes": 32, "spares": 1}, "spares"),
        ({"nodes": 2, "processes_per_node": 0}, "processes_per_node"),
        ({"nodes": 2, "processes_per_node": "all"}, "processes_per_node"),
        ({"nodes": 2, "instance_id": "i-0123456789abcdef0"}, "instance_id"),
        ({"nodes": 2, "group": "sweep"}, "group"),
        ({"kind": "serve", "nodes": 2}, "nodes"),
    ],
)
def test_bad_requests_name_the_field(values, field):
    assert field in problems_of(**values)
