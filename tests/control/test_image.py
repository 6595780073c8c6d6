"""The image of a run: found before the first launch, built, or the reason why there is none."""

from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.model.build_context import BuildContext
from runctl.model.errors import InvalidRequestError, RequestError, RunEndedError
from runctl.model.image import FoundImage, Image, StoredImage
from runctl.model.image_build import EndedBuild
from runctl.model.outcome import RunStatus
from tests.control.fakes import START, World
from tests.control.scenes import ARN, RUN, execution
from tests.control.steps import launch_instances, prepare_run, reconcile, record_image

CODE = f"s3://bucket/code/{'a' * 64}.tar.gz"
DOCKERFILE = 'FROM python:3.12\nCOPY . .\nCMD ["python", "train.py"]\n'
BUILD = {"code": CODE, "docker": {"dockerfile": "Dockerfile"}}
DIGEST = "sha256:" + "1" * 64
IMAGE = Image(
    reference=f"registry/runctl-images@{DIGEST}",
    digest=DIGEST,
    login="ecr",
    platform="linux/amd64",
    command=("python", "train.py"),
)
FOUND = FoundImage(image=IMAGE, platforms=frozenset({"linux/amd64"}), has_command=True)


def world_with(dockerfile: str = DOCKERFILE, **others: str) -> World:
    world = World()
    members = {"Dockerfile": "file 644 1", "train.py": "file 644 2"}
    world.objects.contexts[CODE] = BuildContext(
        members={**members, **others}, texts={"Dockerfile": dockerfile}
    )
    return world


def build_of(world: World, **request) -> dict:
    return prepare_run(world, execution(), {**BUILD, **request})["build"]


def variables_of(build: dict) -> dict[str, str]:
    return {each["Name"]: each["Value"] for each in build["variables"]}


def problem_of(world: World, **request) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution(), {**BUILD, **request})
    (problem,) = caught.value.problems
    assert world.ledger.runs == {}
    return str(problem)


def test_a_project_without_an_image_of_its_content_is_built_once():
    world = world_with()
    build = build_of(world)
    assert build == build_of(world)
    assert build["project"] == "build-amd64"
    assert (build["log_group"], build["log_stream"]) == ("/runctl/trainer", f"{RUN}/image")
    variables = variables_of(build)
    assert variables["RUNCTL_CODE"] == CODE
    assert variables["RUNCTL_CODE_SHA256"] == "a" * 64
    assert variables["RUNCTL_TAG"] == build["tag"]
    assert variables["RUNCTL_PLATFORM"] == "linux/amd64"
    assert world.ledger.find_run(RUN).image is None


def test_an_unchanged_project_builds_nothing():
    world = world_with()
    tag = build_of(world)["tag"]
    again = world_with()
    again.images.built[tag] = FOUND
    assert prepare_run(again, execution(), BUILD) == {"run_id": RUN, "attempt": 1}
    assert again.ledger.find_run(RUN).image == IMAGE


def test_a_run_that_continues_keeps_the_image_that_it_recorded():
    world = world_with()
    tag = build_of(world)["tag"]
    world.images.built[tag] = FOUND
    assert record_image(world, RUN, tag=tag) == {"run_id": RUN, "recorded": True}
    moved = replace(FOUND, image=replace(IMAGE, reference="registry/runctl-images@other"))
    world.images.built[tag] = moved
    world.ledger.end_run(RUN, status=RunStatus.FAILED, reason="over", now=START)
    assert "build" not in prepare_run(world, execution(f"{RUN}-r2"), {"run_id": RUN})
    assert record_image(world, RUN, tag=tag)["recorded"]
    assert world.ledger.find_run(RUN).image == IMAGE


def test_a_run_whose_build_failed_builds_again_when_it_continues():
    world = world_with()
    first = build_of(world)
    world.ledger.end_run(RUN, status=RunStatus.FAILED, reason="no image", now=START)
    second = prepare_run(world, execution(f"{RUN}-r2"), {"run_id": RUN})["build"]
    assert second == first


def test_an_image_that_was_deleted_is_named_when_the_run_continues():
    world = World()
    reference = f"registry:5000/train@{DIGEST}"
    world.images.others[reference] = FoundImage(image=replace(IMAGE, reference=reference))
    prepare_run(world, execution(), {"docker": {"image": reference}})
    world.ledger.end_run(RUN, status=RunStatus.FAILED, reason="over", now=START)
    world.images.others.clear()
    with pytest.raises(RequestError, match="does not exist"):
        prepare_run(world, execution(f"{RUN}-r2"), {"run_id": RUN})


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"docker": {"dockerfile": "Dockerfile", "target": "0"}}, False),
        ({"docker": {"dockerfile": "Dockerfile", "build_args": {"A": "1"}}}, False),
        ({"docker": {"dockerfile": "Dockerfile", "build_secrets": {"a": "secret:a"}}}, False),
        ({"instance_types": ["c7g.large"]}, False),
        ({"market": "on-demand", "env": {"A": "1"}}, True),
    ],
)
def test_the_tag_changes_with_everything_that_a_build_reads(changes, is_same):
    tag = build_of(world_with())["tag"]
    assert (build_of(world_with(), **changes)["tag"] == tag) is is_same


def test_the_platform_is_that_of_most_types_and_the_others_are_not_launched():
    world = world_with()
    types = ["c7g.large", "m7g.large", "g5.xlarge"]
    build = build_of(world, instance_types=types)
    assert (build["project"], build["tag"][:6]) == ("build-arm64", "arm64-")
    arm = replace(IMAGE, platform="linux/arm64")
    found = FoundImage(image=arm, platforms=frozenset({"linux/arm64"}))
    world.images.built[build["tag"]] = found
    record_image(world, RUN, tag=build["tag"])
    launch_instances(world, RUN, 1)
    attempt = world.ledger.find_attempt(RUN, 1)
    assert attempt.pool.partition("/")[0] in types[:2]
    assert "g5.xlarge left out, which cannot run the image" in attempt.plan


def test_a_dockerfile_without_a_command_is_refused_only_if_no_script_is_given():
    bare = "FROM scratch\nCOPY . .\n"
    assert "neither CMD nor ENTRYPOINT" in problem_of(world_with(bare))
    assert build_of(world_with(bare), script="train.py")


def test_a_base_image_may_have_the_command_which_the_built_image_shows():
    world = world_with("FROM base\nCOPY . .\n")
    tag = build_of(world)["tag"]
    world.images.built[tag] = replace(FOUND, has_command=False)
    result = record_image(world, RUN, tag=tag)
    assert (result["recorded"], result["status"]) == (False, "failed")
    assert "neither CMD nor ENTRYPOINT" in result["reason"]


@pytest.mark.parametrize(
    ("world", "docker", "message"),
    [
        (world_with("RUN true\n"), {}, "docker.dockerfile: Dockerfile: it has no FROM"),
        (world_with(), {"dockerfile": "other"}, "other does not exist in the project"),
        (world_with(), {"target": "run"}, "Dockerfile has no stage 'run'; its stages: none"),
        (World(), {}, "is not a readable archive"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_paid_for(world, docker, message):
    assert message in problem_of(world, docker={"dockerfile": "Dockerfile", **docker})


def test_a_deployment_without_a_project_for_the_platform_says_so():
    world = world_with()
    world.images.place = replace(world.images.place, projects={})
    assert "linux/amd64: this deployment builds no images for it" in problem_of(world)


def test_an_existing_image_is_looked_up_and_recorded_by_its_digest():
    world = World()
    world.images.others["registry:5000/train:v1"] = FOUND
    prepare_run(world, execution(), {"docker": {"image": "registry:5000/train:v1"}})
    assert world.ledger.find_run(RUN).image == IMAGE


@pytest.mark.parametrize(
    ("image", "found", "message"),
    [
        ("registry:5000/train:v2", None, "docker.image: registry:5000/train:v2 does not exist"),
        (
            "registry:5000/train:v1",
            replace(FOUND, platforms=frozenset({"linux/arm64"})),
            "the image is for linux/arm64, but the run's instance types need linux/amd64",
        ),
        ("registry:5000/train:v1", replace(FOUND, has_command=False), "neither CMD nor ENTRYPOINT"),
    ],
)
def test_an_image_that_cannot_run_is_refused(image, found, message):
    world = World()
    if found is not None:
        world.images.others[image] = found
    with pytest.raises(InvalidRequestError, match=message):
        prepare_run(world, execution(), {"docker": {"image": image}})


def test_an_image_of_another_registry_is_left_to_the_instance():
    world = World()
    result = prepare_run(world, execution(), {"docker": {"image": "python:3.12"}})
    assert result == {"run_id": RUN, "attempt": 1}
    assert world.ledger.find_run(RUN).image is None


def test_an_archive_that_does_not_exist_is_refused():
    world = World()
    world.objects.problems["s3://bucket/image.tar"] = "does not exist"
    with pytest.raises(InvalidRequestError, match=r"docker\.archive: does not exist"):
        prepare_run(world, execution(), {"docker": {"archive": "s3://bucket/image.tar"}})


CAUSE = 'States.TaskFailed: {"Build":{"Arn":"arn","Id":"build-amd64:7","BuildStatus":"FAILED"'


def test_a_failed_build_ends_the_run_with_its_last_lines():
    world = world_with()
    tag = build_of(world)["tag"]
    lines = tuple(f"step {number}" for number in range(40))
    world.builds.ended["build-amd64:7"] = EndedBuild(status="FAILED", lines=(*lines, "no pip"))
    result = record_image(world, RUN, tag=tag, cause=CAUSE)
    assert result["status"] == "failed"
    assert result["reason"].startswith("the build of the image ended as failed: step 26\n")
    assert result["reason"].endswith("step 39\nno pip")


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("CodeBuild.ResourceNotFoundException: no project", "could not be built: CodeBuild.Resour"),
        ("", "no build was started"),
        (CAUSE, "could not be built: States.TaskFailed"),
        (
            "CodeBuild.AccountLimitExceededException: Cannot have",
            "raise the account's quota of con",
        ),
    ],
)
def test_a_build_that_was_not_started_ends_the_run_with_the_cause(cause, message):
    world = world_with()
    result = record_image(world, RUN, tag=build_of(world)["tag"], cause=cause)
    assert (result["status"], message in result["reason"]) == ("failed", True)


def test_the_image_of_a_build_that_another_build_overtook_is_recorded():
    world = world_with()
    tag = build_of(world)["tag"]
    world.images.built[tag] = FOUND
    assert record_image(world, RUN, tag=tag, cause=CAUSE)["recorded"]
    assert world.ledger.find_run(RUN).image == IMAGE


def test_a_run_that_ended_during_its_build_is_not_launched():
    world = world_with()
    tag = build_of(world)["tag"]
    world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="stopped by you", now=START)
    world.images.built[tag] = FOUND
    result = record_image(world, RUN, tag=tag)
    assert result["status"] == "stopped"
    assert result["reason"] == "stopped by you"
    assert world.ledger.find_run(RUN).execution_arn == ARN
    with pytest.raises(RunEndedError):
        launch_instances(world, RUN, 1)


def stored(digest: str, days: int) -> StoredImage:
    return StoredImage(digest=digest, size_bytes=1, used_at=START - timedelta(days=days))


def test_a_reconciliation_deletes_images_that_nothing_has_used_for_long():
    world = world_with()
    tag = build_of(world)["tag"]
    world.images.built[tag] = FOUND
    record_image(world, RUN, tag=tag)
    # The run is active, so its next attempt will pull its image, however old that is.
    world.workflow.running.add(ARN)
    world.images.kept = [stored(DIGEST, 400), stored("sha256:old", 90), stored("sha256:new", 89)]
    assert reconcile(world)["images_deleted"] == ["sha256:old"]
    assert [image.digest for image in world.images.kept] == [DIGEST, "sha256:new"]
    assert "images_deleted" not in reconcile(world)


LOGIN, INDEX = "secret:hub", "secret:team/index"
MISSING = "there is no such secret in us-east-1; create it there, or correct the name"


def problems_of(world: World, request: dict) -> list[str]:
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution(), request)
    assert world.ledger.runs == {}
    return [str(problem) for problem in caught.value.problems]


def test_secrets_of_a_build_that_are_missing_are_all_named_before_anything_is_paid_for():
    world = world_with()
    docker = {"login": LOGIN, "build_secrets": {"index": INDEX, "other": "ssm:/x"}}
    request = {**BUILD, "docker": {**BUILD["docker"], **docker}}
    assert prepare_run(world, execution(), request)["build"]
    world = world_with()
    world.secrets.problems = {LOGIN: MISSING, INDEX: MISSING}
    assert problems_of(world, request) == [
        f"docker.login: {LOGIN}: {MISSING}",
        f"docker.build_secrets.index: {INDEX}: {MISSING}",
    ]


def test_secrets_of_a_build_do_not_matter_for_an_image_that_exists():
    request = {**BUILD, "docker": {**BUILD["docker"], "build_secrets": {"index": INDEX}}}
    tag = prepare_run(world_with(), execution(), request)["build"]["tag"]
    world = world_with()
    world.images.built[tag] = FOUND
    world.secrets.problems = {INDEX: MISSING}
    assert prepare_run(world, execution(), request) == {"run_id": RUN, "attempt": 1}


def test_a_login_that_is_missing_is_named_before_an_instance_pulls_the_image():
    world = World()
    world.secrets.problems = {LOGIN: MISSING}
    request = {"docker": {"image": "docker.io/me/train:v1", "login": LOGIN}, "command": ["true"]}
    assert problems_of(world, request) == [f"docker.login: {LOGIN}: {MISSING}"]
    world.secrets.problems = {}
    assert prepare_run(world, execution(), request)["attempt"] == 1
