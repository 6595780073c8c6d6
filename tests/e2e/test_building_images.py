"""BuildImage executes the project's real buildspec on the local cloud, with a real engine."""

import pytest

from runctl.model.run import Run
from tests.docker_engine import needs_engine, needs_registry, serving_engine
from tests.e2e.testbed import Testbed, wait_for
from tests.local.test_ecr import login_of, make_repository

pytestmark = [needs_engine, needs_registry, pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture(scope="module")
def base(testbed: Testbed) -> str:
    """A base image with a shell in a repository of the local cloud."""
    ecr = testbed.clients.get("ecr")
    address: str = f"{make_repository(ecr)['repositoryUri']}:1"
    with serving_engine() as engine:
        engine.import_base("busybox", "busybox")
        engine.push("busybox", address, login=login_of(ecr))
    return address


def start(testbed: Testbed, name: str, dockerfile: str, **docker: object) -> str:
    code = testbed.upload_project({"Dockerfile": dockerfile})
    return testbed.start(
        {"code": code, "docker": {"dockerfile": "Dockerfile", **docker}}, name=name
    )


def builds_of(testbed: Testbed, run_id: str) -> list[dict]:
    codebuild = testbed.clients.get("codebuild")
    ids = codebuild.list_builds()["ids"]
    builds = codebuild.batch_get_builds(ids=ids)["builds"] if ids else []
    return [build for build in builds if run_id in build["logs"].get("streamName", "")]


def test_a_target_is_built_with_its_arguments_for_all_attempts(testbed, new_name, base):
    dockerfile = (
        f"FROM {base} AS first\nARG CODE\nRUN echo exit $CODE >/run.sh\n"
        'CMD ["sh", "/run.sh"]\nFROM first AS second\nRUN echo exit 0 >/run.sh\n'
    )
    docker = {"target": "first", "build_args": {"CODE": "23"}}
    run_id = start(testbed, new_name(), dockerfile, **docker)
    execution = testbed.wait_for_end(run_id)
    run: Run = testbed.run(run_id)
    assert run.image is not None, execution
    assert "@sha256:" in run.image.reference
    assert "23" in run.reason, run.reason
    assert [build["buildStatus"] for build in builds_of(testbed, run_id)] == ["SUCCEEDED"]


def test_a_dockerfile_that_does_not_build_ends_the_run_with_its_output(testbed, new_name, base):
    dockerfile = f'FROM {base}\nRUN echo "no such wheel" >&2; exit 9\nCMD ["sh"]\n'
    run_id = start(testbed, new_name(), dockerfile)
    testbed.wait_for_end(run_id)
    run = testbed.run(run_id)
    assert run.image is None
    assert "no such wheel" in run.reason
    assert "returned a non-zero code: 9" in run.reason
    assert testbed.attempts(run_id) == []


def test_a_stopped_run_stops_its_build(testbed, new_name, base):
    run_id = start(testbed, new_name(), f'FROM {base}\nRUN sleep 600\nCMD ["sh"]\n')
    wait_for(
        lambda: [b for b in builds_of(testbed, run_id) if b["currentPhase"] == "BUILD"],
        "the build to begin",
    )
    testbed.clients.get("stepfunctions").stop_execution(
        executionArn=testbed.workflow.execution_arn(run_id)
    )
    wait_for(lambda: builds_of(testbed, run_id)[0]["buildComplete"], "the build to end")
    assert builds_of(testbed, run_id)[0]["buildStatus"] == "STOPPED"
