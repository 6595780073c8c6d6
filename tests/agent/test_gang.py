"""Several agents of one attempt: their rendezvous, their lead, and what follows it."""

import pytest

from tests.agent.gang_machines import Gang

pytestmark = pytest.mark.slow


@pytest.fixture
def gang(cloud, launch, tmp_path):
    return Gang(cloud, launch, tmp_path / "place")


def test_all_nodes_start_together_and_the_lead_reports_when_all_have_ended(gang):
    gang.create_run()
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    first, second = gang.boot("i-a"), gang.boot("i-b")
    seen = [gang.started("1-0"), gang.started("1-1")]
    assert [each["RUNCTL_NODE_RANK"] for each in seen] == ["0", "1"]
    assert seen[0]["OPTIONS"] != seen[1]["OPTIONS"]
    assert seen[0]["MASTER"] == seen[1]["MASTER"]
    assert {each["RUNCTL_BACKEND"] for each in seen} == {"gloo"}
    assert {each["GLOO_SOCKET_IFNAME"] for each in seen} == {"lo"}
    gang.end_programs("1-0")
    assert not gang.cloud.tokens.reports
    gang.end_programs("1-1")
    assert gang.end_attempt().kind.value == "completed"
    assert first.wait() == second.wait() == 0
    assert first.shut_down
    assert second.shut_down
    assert len(gang.cloud.tokens.reports) == 1
    assert {"runs/run-1/outputs/result.txt", "runs/run-1/outputs/node-001/result.txt"} <= set(
        gang.cloud.keys("runs/run-1/outputs/")
    )
