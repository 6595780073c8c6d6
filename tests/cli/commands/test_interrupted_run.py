"""The interruption of `verify --run`: what cannot be removed is named, and hides no result."""

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.deployment import Deployment
from runctl.aws.fault_injection import FaultInjection
from runctl.cli.commands.interrupted_run import ExperimentFailedError, FollowedRun
from runctl.cli.commands.verify_run import Step, VerifiedRun
from runctl.model.errors import RefusedError
from runctl.model.node import Node
from runctl.model.run import Attempt, AttemptStage

RUN, TEMPLATE, ROLE = "verify-1", "EXT123", "arn:aws:iam::123456789012:role/fis"
ATTEMPT = Attempt(
    run_id=RUN,
    number=1,
    stage=AttemptStage.RUNNING,
    nodes=(Node(run_id=RUN, attempt=1, instance_id="i-0123456789abcdef0"),),
)


@pytest.fixture
def fis():
    client = boto3.client(
        "fis", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    with Stubber(client) as stub:
        yield stub


def started(fis: Stubber, status: str) -> None:
    template = {"experimentTemplate": {"id": TEMPLATE}}
    fis.add_response("create_experiment_template", template)
    state = {"status": status, "reason": "it may not"}
    fis.add_response("start_experiment", {"experiment": {"id": "EXP1", "state": state}})


def refuse_deletion(fis: Stubber) -> None:
    message = "not authorized to perform: fis:DeleteExperimentTemplate"
    fis.add_client_error(
        "delete_experiment_template", "AccessDeniedException", message, http_status_code=403,
        expected_params={"id": TEMPLATE},
    )  # fmt: skip


def followed() -> FollowedRun:
    deployment = Deployment(region="us-east-1", account="123456789012", fault_injection_role=ROLE)
    cloud: Any = SimpleNamespace(deployment=deployment, pause=0)
    return FollowedRun(cloud, RUN, "arn")


def interrupt(run: FollowedRun, fis: Stubber) -> None:
    faults = FaultInjection(fis.client, pause=lambda _: None)
    run.interrupt(ATTEMPT, faults)
    fis.assert_no_pending_responses()


def test_a_template_that_may_not_be_deleted_is_named_and_the_run_goes_on(fis: Stubber) -> None:
    run = followed()
    started(fis, "completed")
    refuse_deletion(fis)
    interrupt(run, fis)
    (left,) = run.left
    assert "fis:DeleteExperimentTemplate" in left
    assert f"`aws fis delete-experiment-template --id {TEMPLATE}`" in left


def test_what_remains_does_not_hide_why_the_experiment_failed(fis: Stubber) -> None:
    run = followed()
    started(fis, "failed")
    refuse_deletion(fis)
    with pytest.raises(ExperimentFailedError, match="EXP1 of FIS is failed: it may not"):
        interrupt(run, fis)
    assert len(run.left) == 1


def test_a_template_whose_creation_lost_its_answer_is_looked_for_and_named(fis: Stubber) -> None:
    run = followed()
    for _ in range(4):
        fis.add_client_error("create_experiment_template", "InternalServerException", "lost", 500)
    fis.add_response("create_experiment_template", {"experimentTemplate": {"id": TEMPLATE}})
    refuse_deletion(fis)
    with pytest.raises(Exception, match="lost"):
        interrupt(run, fis)
    assert TEMPLATE in run.left[0]


def test_a_run_without_permission_to_make_templates_leaves_nothing(fis: Stubber) -> None:
    run = followed()
    fis.add_client_error("create_experiment_template", "AccessDeniedException", "no", 403)
    with pytest.raises(RefusedError):
        interrupt(run, fis)
    assert run.left == []


def test_the_result_counts_although_something_is_left() -> None:
    result = VerifiedRun(RUN, steps=[Step("completed", "step 240 of 240")], left=["a template"])
    assert (result.passed, result.as_document()["state"]) == (True, "passed")
    assert result.as_document()["left"] == ["a template"]
    assert "left: a template" in result.page()
