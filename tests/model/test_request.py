"""The run request: every problem is reported at once, and the published schema agrees."""

import json
from datetime import datetime, timezone

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.data_options import CREDENTIALS
from runctl.model.errors import InvalidRequestError
from runctl.model.evaluation_options import RunReference
from runctl.model.limit_options import RetryOptions
from runctl.model.request import FIELDS, RunRequest
from runctl.model.request_checks import MAX_ARGS_BYTES, MAX_ENV_BYTES
from runctl.model.request_parsing import parse_request
from runctl.model.request_schema import request_schema
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES, MARKETS

CODE = "s3://bucket/code/abc.tar.gz"
MINIMAL = {"script": "train.py", "code": CODE}
VALIDATOR = jsonschema.Draft202012Validator(request_schema())


def problems(document):
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(document)
    return caught.value.problems


def test_only_the_program_is_required():
    request = parse_request(MINIMAL)
    assert (request.program.script, request.program.code) == ("train.py", CODE)
    assert (request.resources.market, request.limits.auto_resume, request.limits.max_attempts) == (
        "spot",
        True,
        100,
    )
    assert request.resources.instance_types == DEFAULT_INSTANCE_TYPES
    assert request.saving.checkpoint.keep_last == 3


@pytest.mark.parametrize(
    "document",
    [MINIMAL, {"script": "s3://bucket/train.py"}, {"command": ["bash", "-c", "true"]}],
)
def test_each_way_to_name_the_program_is_enough(document):
    assert parse_request(document)
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("field", "value"), [("root", True), ("instance_id", "i-0123456789abcdef0")]
)
def test_an_environment_that_no_other_run_would_use_is_not_built_in_advance(field, value):
    (problem,) = problems({**MINIMAL, "kind": "environment", field: value})
    assert problem.field == field
    assert "no other run uses what such a run stores" in problem.message
    assert parse_request({**MINIMAL, "kind": "environment", "root": False})


# An invalid value of each field, with a part of the message about it.
BAD = [
    ("kind", "server", "'server' is not a valid kind; known values: train, environment"),
    ("kind", None, "None is not a valid kind"),
    ("kind", ["train"], "is not a valid kind"),
    ("script", "", "is not the path"),
    ("script", 3, "is not the path"),
    ("script", "/etc/passwd", "is outside the project; give a path relative"),
    ("script", "../train.py", "is outside the project; give a path relative"),
    ("script", "~/train.py", "is outside the project; give a path relative"),
    ("script", "a/../../b.py", "is outside the project; give a path relative"),
    ("script", "s3://bucket", "is not a valid S3 URI (s3://bucket/key)"),
    ("script", "nb/train.ipynb", "jupyter nbconvert --to script train.ipynb"),
    ("script", "s3://bucket/train.ipynb", "is a notebook"),
    ("script", "notes.txt", "is not a program (.txt)"),
    ("command", [], "must not be empty"),
    ("command", "train", "must be a list of strings, not a string"),
    ("command", ["a", 1], "item 1 must be a string, not a number; quote it"),
    ("command", ["train", "--to", "$RUNCTL_CHECKPOINT_DR"], "did you mean $RUNCTL_CHECKPOINT_DIR?"),
    ("code", "code.tar.gz", ".tar.gz archive"),
    ("code", "s3://bucket/code.zip", ".tar.gz archive"),
    ("code", 3, ".tar.gz archive"),
    ("not_secrets", "SORT_KEY", "must be a list of strings"),
    ("not_secrets", [[]], "item 0 must be a string, not a list; quote it"),
    ("args", "--epochs 3", "must be a list of strings"),
    ("args", [3], "item 0 must be a string, not a number"),
    ("args", ["a\0b"], "item 0 contains a NUL character"),
    ("args", ["--to=${RUNCTL_CHECKPOINTS}"], "did you mean $RUNCTL_CHECKPOINT_DIR?"),
    ("args", ["${RUNCTL_RESUME_STEP:+--resume}"], "resume_args"),
    ("resume_args", "--resume", "must be a list of strings"),
    ("resume_args", ["$RUNCTL_X"], "not a variable of the trainer contract"),
    ("args", ["x" * (MAX_ARGS_BYTES + 1)], "put large values into a file"),
    ("env", ["A=1"], "must be an object of names and strings, not a list"),
    ("env", {"1A": "x"}, "is not a valid variable name"),
    ("env", {"A-B": "x"}, "is not a valid variable name"),
    ("env", {"A": 1}, "A must be a string, not a number; quote it"),
    ("env", {"A": "x\0"}, "A contains a NUL character"),
    ("env", {"RUNCTL_ATTEMPT": "1"}, "set by runctl itself"),
    (
        "env",
        {"PATH": "/opt/bin"},
        "PATH is set by runctl itself; give a program by its absolute path",
    ),
    ("env", {"VIRTUAL_ENV": "/opt/env"}, "made from the project's requirements"),
    ("env", {"A": "x" * MAX_ENV_BYTES}, "put large values into a file"),
    ("inputs", ["s3://bucket/a/"], "write {NAME: 's3://bucket/prefix/'}"),
    ("inputs", {"a b": "s3://bucket/a/"}, "'a b' is not a valid name; use 1 to 64 letters"),
    ("inputs", {"../a": "s3://bucket/a/"}, "'../a' is not a valid name"),
    ("inputs", {"data": "s3://bucket"}, "data: 's3://bucket' is not an S3 URI; write s3://bucket/"),
    ("inputs", {"data": 3}, "data: 3 is not a string; quote it"),
    ("inputs", {f"d{n}": "s3://bucket/a/" for n in range(101)}, "exceed the limit of 100"),
    ("disk", 100, "must be an object, not a number"),
    ("disk", {"throughput": 2000, "iops": 3000}, "needs at least 8000 iops"),
    ("disk", {"gib": 20, "iops": 12_000}, "need a disk of at least 24 GiB, and gib is 20"),
    ("disk", {"gib": 10, "throughput": 2000}, "a disk of at least 16 GiB, and gib is 10"),
    ("instance_types", [], "not a list of instance types"),
    ("instance_types", "g5.xlarge", "not a list of instance types"),
    ("instance_types", ["g5"], "'g5' is not a valid instance type (e.g. g5.xlarge)"),
    ("instance_types", ["g5xlarge"], "'g5xlarge' is not a valid instance type (e.g. g5.xlarge)"),
    ("instance_types", ["g4dn_2xlarge"], "(e.g. g4dn.2xlarge)"),
    ("instance_types", ["m5.huge"], "'m5.huge' is not a valid instance type (e.g. m5.xlarge)"),
    ("instance_types", ["ml.g5.xlarge"], "(e.g. g5.xlarge)"),
    ("instance_types", ["m5.1xlarge"], "(e.g. m5.xlarge)"),
    ("instance_types", ["large"], "(e.g. g5.xlarge)"),
    ("instance_types", ["M5.large"], "(e.g. m5.large)"),
    ("instance_types", ["g5.xlarge", "g5.xlarge"], "g5.xlarge is listed twice"),
    ("instance_types", [f"m{n}.large" for n in range(41)], "exceed the limit of 40"),
    ("instance_types", ["g5g.xlarge"], "arm64 GPU"),
    ("market", "cheap", "is not a valid market; known values: spot, on-demand"),
    ("market", None, "is not a valid market; known values: spot, on-demand"),
    ("group", "lr search", "is not a valid name of a group; use 1 to 64 letters"),
    ("group", 7, "is not a valid name of a group"),
    ("credentials", "all", "is not a valid value; known values: none, run"),
    ("credentials", True, "is not a valid value; known values: none, run"),
    ("auto_resume", "yes", "is not a boolean; use true or false"),
    ("auto_resume", 1, "is not a boolean; use true or false"),
    ("fresh_environment", "yes", "is not a boolean; use true or false"),
    ("root", "yes", "is not a boolean; use true or false"),
    ("max_attempts", 0, "whole number from 1 to 1000"),
    ("max_attempts", 1001, "whole number"),
    ("max_attempts", True, "whole number"),
    ("max_attempts", 1.5, "whole number"),
    ("deadline", "tomorrow", "is not a date and time with a time zone"),
    ("deadline", "2030-01-01T00:00:00", "is not a date and time with a time zone"),
    ("deadline", 1893456000, "is not a date and time with a time zone"),
    ("retry", [1, 137], "must be an object, not a list"),
    ("checkpoint", "saved", "must be an object, not a string"),
    ("docker", "Dockerfile", "must be an object, not a string"),
    ("evaluate", "run:lm", "must be an object, not a string"),
    ("evaluate", {}, "checkpoint is missing"),
    ("serve", 8080, "must be an object, not a number"),
    ("trial", 7, "must be an object, not a number"),
    ("trial", {"number": 7}, "hyperparameters is missing; The hyperparameters of the trial"),
    ("process", "s3://bucket/data/", "must be an object, not a string"),
    ("instance_id", "i-12", "is not a valid instance id"),
    ("instance_id", "m5.large", "is not a valid instance id"),
    ("instance_id", 3, "is not a valid instance id"),
    ("nodes", 0, "whole number from 1 to 32"),
    ("min_nodes", -1, "whole number from 0 to 32"),
    ("spares", 5, "whole number from 0 to 4"),
    ("processes_per_node", "all", "or auto"),
    ("replace_stragglers", "yes", "true or false"),
]
BAD_CHECKPOINT = [
    ("dir", "/saved", "not a folder inside"),
    ("dir", "..", "not a folder inside"),
    ("dir", ".", "not a folder inside"),
    ("dir", 3, "3 is not a folder inside"),
    ("keep_last", 0, "whole number from 1"),
    ("keep_last", "3", "whole number"),
    ("grace_seconds", -1, "whole number from 0 to 90"),
    ("grace_seconds", 91, "whole number"),
    ("interval", -1, "whole number from 0 to 86400"),
]


BAD_DISK = [
    ("gib", 0, "0 is not a whole number from 1 to 65536"),
    ("gib", 65_537, "whole number from 1 to 65536"),
    ("gib", "100", "whole number"),
    ("throughput", 124, "whole number from 125 to 2000"),
    ("throughput", 2001, "whole number from 125 to 2000"),
    ("iops", 2999, "whole number from 3000 to 80000"),
    ("iops", 1e5, "whole number from 3000 to 80000"),
]


BAD_RETRY = [
    ("exit_codes", [0], "0 is the exit code of success"),
    ("exit_codes", [1, 300], "300 is not a valid exit code; use whole numbers from 1 to 255"),
    ("exit_codes", [-9], "-9 is not a valid exit code"),
    ("exit_codes", [1.5], "1.5 is not a valid exit code"),
    ("exit_codes", ["1"], "'1' is not a valid exit code"),
    ("exit_codes", [True], "True is not a valid exit code"),
    ("exit_codes", [137, 1, 137], "137 is listed twice"),
    ("exit_codes", [], "must not be empty"),
    ("exit_codes", 1, "1 is not a list"),
    ("exit_codes", "all", "or 'any'"),
    ("max_failures", 0, "whole number from 1 to 100"),
    ("max_failures", 101, "whole number from 1 to 100"),
    ("max_failures", "3", "whole number"),
]


BAD_DOCKER = [
    ("image", "Train:latest", "repositories are written in lower case"),
    ("image", "train:a b", "write registry/name:tag"),
    ("image", "https://docker.io/library/python", "write registry/name:tag"),
    ("image", "train@sha256:12", "write registry/name:tag"),
    ("image", "--privileged", "write registry/name:tag"),
    ("image", 3, "write registry/name:tag"),
    ("dockerfile", "../Dockerfile", "is not the path of a Dockerfile in the project"),
    ("dockerfile", "/Dockerfile", "is not the path of a Dockerfile in the project"),
    ("dockerfile", "Docker\nfile", "is not the path of a Dockerfile in the project"),
    ("target", "--output=/", "is not the name of a build stage"),
    ("build_args", ["A=1"], "must be an object of names and strings, not a list"),
    ("build_args", {"A-B": "1"}, "is not a valid name of a build argument"),
    ("build_args", {"A": 1}, "A must be a string, not a number; quote it"),
    ("build_args", {"A": "a\0"}, "A: contains a NUL character"),
    ("build_args", {"A": "x" * 4000}, "4001 bytes exceed the limit of 4000"),
    ("build_secrets", ["a"], "must be an object of ids and references, not a list"),
    ("build_secrets", {"a,src=/etc/shadow": "secret:a"}, "is not a valid id of a build secret"),
    ("build_secrets", {"token": "plain-text"}, "token: is not a reference; write secret:NAME"),
    ("build_secrets", {"token": "secret:"}, "is not a valid secret"),
    ("login", "me:password", "is not a reference; write secret:NAME"),
    ("login", "ssm:/hub", "is not a whole secret of Secrets Manager"),
    ("login", "secret:hub#password", "is not a whole secret of Secrets Manager"),
    ("archive", "image.tar", "is not the S3 URI of a `docker save` archive"),
    ("archive", "s3://bucket/image.zip", "is not the S3 URI of a `docker save` archive"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_DOCKER)
def test_invalid_docker_option_is_reported_with_its_field(field, value, message):
    found = problems({**MINIMAL, "docker": {field: value}})
    assert found[0].field == f"docker.{field}"
    assert message in found[0].message
    assert "plain-text" not in found[0].message


@pytest.mark.parametrize(
    ("docker", "field", "message"),
    [
        ({"image": "a", "dockerfile": "Dockerfile"}, "docker.dockerfile", "exclusive with"),
        ({"image": "a", "archive": "s3://bucket/a.tar"}, "docker.archive", "exclusive with"),
        ({"image": "a", "target": "run"}, "docker.target", "only for a build"),
        ({"image": "a", "build_args": {"A": "1"}}, "docker.build_args", "only for a build"),
        ({"login": "secret:hub"}, "docker.login", "only with docker.image or docker.dockerfile"),
        (
            {"archive": "s3://bucket/a.tar", "login": "secret:hub"},
            "docker.login",
            "only with docker.image or docker.dockerfile",
        ),
    ],
)
def test_docker_options_that_contradict_each_other_are_reported(docker, field, message):
    (problem,) = problems({**MINIMAL, "docker": docker})
    assert problem.field == field
    assert message in problem.message


def test_a_dockerfile_needs_the_project_that_contains_it():
    (problem,) = problems({"script": "s3://bucket/t.py", "docker": {"dockerfile": "Dockerfile"}})
    assert (problem.field, "code is missing" in problem.message) == ("docker.dockerfile", True)


@pytest.mark.parametrize(
    "docker",
    [
        {"image": "python:3.12-slim"},
        {"image": "localhost:5000/train"},
        {"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a/b@sha256:" + "0" * 64},
        {"archive": "s3://bucket/image.tar.zst"},
    ],
)
def test_the_program_may_be_the_command_of_an_image(docker):
    document = {"docker": docker}
    assert parse_request(document).docker.is_used
    VALIDATOR.validate(document)
    (problem,) = problems({**document, "args": ["--epochs", "3"]})
    assert (problem.field, "image's own command" in problem.message) == ("args", True)


def test_an_empty_docker_object_names_no_program_and_is_not_stored():
    (problem,) = problems({"docker": {}})
    assert problem.field == "script"
    request = parse_request({**MINIMAL, "docker": {}})
    assert not request.docker.is_used
    assert "docker" not in request.as_document()


BAD_SERVE = [
    ("port", 80, "80 is not a whole number from 1024 to 65535"),
    ("port", 65_536, "whole number from 1024 to 65535"),
    ("port", "8080", "whole number"),
    ("checkpoint", "best.pt", "'best.pt' is not an S3 URI; write s3://bucket/key"),
    ("checkpoint", 3, "3 is not an S3 URI"),
    ("probe_path", "health", "'health' is not the path of a URL; begin it with /"),
    ("probe_path", "/a b", "is not the path of a URL"),
    ("startup_seconds", 0, "whole number from 1 to 3600"),
    ("drain_seconds", 91, "whole number from 0 to 90"),
    ("replicas", 0, "whole number from 1 to 20"),
    ("idle_stop_seconds", 59, "whole number from 60 to 604800"),
    ("startup", [], "must be an object, not a list"),
    ("readiness", {"failures": 0}, "whole number from 1 to 100"),
    ("liveness", {"period_seconds": 0}, "whole number from 1 to 300"),
    ("liveness", {"status": 99}, "whole number from 100 to 599"),
    ("liveness", {"timeout_seconds": 61}, "whole number from 1 to 60"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_SERVE)
def test_invalid_option_of_a_service_is_reported_with_its_field(field, value, message):
    (problem,) = problems({**MINIMAL, "kind": "serve", "serve": {field: value}})
    assert problem.field.startswith(f"serve.{field}")
    assert message in problem.message


def test_the_options_of_a_service_need_its_kind():
    (problem,) = problems({**MINIMAL, "serve": {"port": 8080}})
    assert problem.field == "serve"
    assert 'give kind: "serve"' in problem.message


def test_the_name_of_a_services_checkpoint_is_not_that_of_an_input():
    serve = {"checkpoint": "s3://bucket/best.pt"}
    document = {**MINIMAL, "kind": "serve", "serve": serve, "inputs": {"checkpoint": "s3://abc/a/"}}
    (problem,) = problems(document)
    assert problem.field == "inputs.checkpoint"
    request = parse_request({**document, "inputs": {"data": "s3://abc/a/"}})
    assert request.staged_inputs == {"data": "s3://abc/a/", "checkpoint": "s3://bucket/best.pt"}


@pytest.mark.parametrize(
    ("checkpoint", "arguments"),
    [
        ("", []),
        ("s3://bucket/a/best.pt", ["--checkpoint", "${RUNCTL_INPUT_DIR}/checkpoint/best.pt"]),
        ("s3://bucket/best.pt", ["--checkpoint", "${RUNCTL_INPUT_DIR}/checkpoint/best.pt"]),
        ("s3://bucket/model/", ["--checkpoint", "${RUNCTL_INPUT_DIR}/checkpoint"]),
    ],
)
def test_a_server_gets_the_local_path_of_its_checkpoint_and_its_port(checkpoint, arguments):
    serve = {"checkpoint": checkpoint} if checkpoint else {}
    request = parse_request({**MINIMAL, "kind": "serve", "serve": serve})
    assert list(request.serve.arguments) == [*arguments, "--port", "$RUNCTL_PORT"]


BAD_EVALUATE = [
    ("checkpoint", "best.pt", "is not a checkpoint; write s3://bucket/checkpoints/best.pt"),
    ("checkpoint", 3, "is not a checkpoint"),
    ("checkpoint", "s3://bucket/", "is a whole bucket; name an object or a prefix in it"),
    ("checkpoint", "run:", "is not a checkpoint of a run; write run:RUN, or run:RUN@STEP"),
    ("checkpoint", "run:a b", "is not a checkpoint of a run"),
    ("checkpoint", "run:lm@last", "is not a checkpoint of a run"),
    ("test_data", "data/test", "is not an S3 URI; write s3://bucket/prefix/"),
    ("test_data", "run:lm", "is not an S3 URI"),
    ("output", "results", "is not an S3 URI; write s3://bucket/prefix/"),
    ("output", "s3://bucket/", "is a whole bucket"),
    ("every_checkpoint", "yes", "is not a boolean; use true or false"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_EVALUATE)
def test_invalid_option_of_an_evaluation_is_reported_with_its_field(field, value, message):
    evaluate = {"checkpoint": "run:lm", field: value}
    found = problems({**MINIMAL, "kind": "evaluate", "evaluate": evaluate})
    assert found[0].field == f"evaluate.{field}" or found[0].field == "evaluate"
    assert any(message in problem.message for problem in found)


@pytest.mark.parametrize(
    "places",
    [
        {"test_data": "s3://abc/t/", "output": "s3://abc/t"},
        {"test_data": "s3://abc/t/", "output": "s3://abc/t/results/"},
        {"checkpoint": "s3://abc/lm/", "output": "s3://abc/lm/results/"},
    ],
)
def test_results_that_the_next_evaluation_would_read_are_refused(places):
    evaluate = {"checkpoint": "run:lm", **places}
    (problem,) = problems({**MINIMAL, "kind": "evaluate", "evaluate": evaluate})
    assert problem.field == "evaluate.output"
    assert "choose a prefix outside of it" in problem.message


@pytest.mark.parametrize(
    "places",
    [
        {"test_data": "s3://abc/t/", "output": "s3://abc/results/"},
        {"test_data": "s3://abc/t/", "output": "s3://abc/t2/"},
        {"checkpoint": "s3://abc/lm/best.pt", "output": "s3://abc/lm/"},
    ],
)
def test_results_beside_what_is_read_are_accepted(places):
    evaluate = {"checkpoint": "run:lm", **places}
    request = parse_request({**MINIMAL, "kind": "evaluate", "evaluate": evaluate})
    assert request.evaluate.output == places["output"]


@pytest.mark.parametrize("checkpoint", ["s3://bucket/best.pt", "run:lm@100"])
def test_only_all_checkpoints_of_a_run_can_be_followed(checkpoint):
    evaluate = {"checkpoint": checkpoint, "every_checkpoint": True}
    (problem,) = problems({**MINIMAL, "kind": "evaluate", "evaluate": evaluate})
    assert problem.field == "evaluate"
    assert "follows a run, so checkpoint must be run:RUN" in problem.message


def test_an_evaluation_needs_its_object_and_the_names_of_its_inputs():
    (problem,) = problems({**MINIMAL, "kind": "evaluate"})
    assert problem.field == "evaluate.checkpoint"
    assert "missing; give s3://bucket/checkpoints/best.pt" in problem.message
    inputs = {"test-data": "s3://abc/a/"}
    document = {**MINIMAL, "kind": "evaluate", "evaluate": {"checkpoint": "run:lm"}}
    (problem,) = problems({**document, "inputs": inputs})
    assert problem.field == "inputs.test-data"


def test_the_inputs_of_an_evaluation_are_those_in_s3():
    evaluate = {"checkpoint": "run:lm@100", "test_data": "s3://abc/t/", "output": "s3://abc/out"}
    request = parse_request({**MINIMAL, "kind": "evaluate", "evaluate": evaluate})
    assert request.staged_inputs == {"test-data": "s3://abc/t/"}
    assert request.evaluate.reference == RunReference("lm", 100)
    assert request.evaluate.output_prefix == "s3://abc/out/"
    assert parse_request(request.as_document()) == request


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_invalid_value_is_reported_with_its_field(field, value, message):
    document = {"command": ["train"]} if field == "command" else dict(MINIMAL)
    found = [each for each in problems({**document, field: value}) if each.field == field]
    assert found
    assert message in found[0].message


@pytest.mark.parametrize(("field", "value", "message"), BAD_CHECKPOINT)
def test_invalid_checkpoint_option_is_reported_with_its_field(field, value, message):
    (problem,) = problems({**MINIMAL, "checkpoint": {field: value}})
    assert problem.field == f"checkpoint.{field}"
    assert message in problem.message


@pytest.mark.parametrize(("field", "value", "message"), BAD_DISK)
def test_invalid_disk_is_reported_with_its_field(field, value, message):
    (problem,) = problems({**MINIMAL, "disk": {field: value}})
    assert problem.field == f"disk.{field}"
    assert message in problem.message


def test_a_disk_that_is_not_given_is_not_stored():
    assert "disk" not in parse_request({**MINIMAL, "disk": {}}).as_document()
    assert RunRequest.from_stored({**MINIMAL, "disk": {"gib": "much"}}).resources.disk.gib == 0


@pytest.mark.parametrize(
    "name",
    [
        "g5.xlarge", "m7i-flex.large", "t3.nano", "p5.48xlarge", "u-6tb1.112xlarge",
        "u7in-16tb.224xlarge", "c7a.metal-48xl", "x2iedn.32xlarge", "trn1.2xlarge",
        "a1.medium", "i4i.metal", "is4gen.8xlarge", "mac-m4.metal",
        "mac2-m2.metal", "hpc7a.96xlarge",
    ],
)  # fmt: skip
def test_types_of_every_naming_scheme_are_accepted(name):
    assert parse_request({**MINIMAL, "instance_types": [name]}).resources.instance_types == (name,)


def test_credentials_of_a_run_are_not_set_twice():
    document = {**MINIMAL, "env": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"}}
    assert parse_request(document)
    (problem,) = problems({**document, "credentials": "run"})
    assert (problem.field, "remove it" in problem.message) == ("env", True)


@pytest.mark.parametrize(
    "word", ["$RUNCTL_CHECKPOINT_DIR/a", "--x=${RUNCTL_ATTEMPT}", "$$RUNCTL_X", "$HOME", "RUNCTL_X"]
)
def test_references_to_the_contract_and_other_texts_are_accepted(word):
    request = parse_request({**MINIMAL, "args": [word], "resume_args": [word]})
    assert request.program.args == request.program.resume_args == (word,)
    assert parse_request(request.as_document()) == request


def test_shell_syntax_inside_arguments_is_accepted():
    program = "for RUNCTL_X in ${RUNCTL_ATTEMPT:+1}; do echo $RUNCTL_X; done"
    assert parse_request({"command": ["sh", "-c", program]})


@pytest.mark.parametrize(("field", "value", "message"), BAD_RETRY)
def test_invalid_retry_option_is_reported_with_its_field(field, value, message):
    (problem,) = problems({**MINIMAL, "retry": {"exit_codes": [1], field: value}})
    assert problem.field == f"retry.{field}"
    assert message in problem.message


def test_retry_without_exit_codes_is_refused():
    (problem,) = problems({**MINIMAL, "retry": {"max_failures": 3}})
    assert (problem.field, "exit_codes is missing" in problem.message) == ("retry", True)


@pytest.mark.parametrize(
    ("codes", "covered", "others"),
    [
        ([1, 137], [1, 137, -9], [2, 9, -15, 143, 0, None]),
        ("any", [1, 137, -9, 255], [0, None]),
    ],
)
def test_retry_covers_exit_codes_as_a_shell_has_them(codes, covered, others):
    retry = parse_request({**MINIMAL, "retry": {"exit_codes": codes}}).limits.retry
    assert [code for code in [*covered, *others] if retry.covers(code)] == covered


@pytest.mark.parametrize("stored", [None, [], "any", {"exit_codes": "some", "max_failures": "x"}])
def test_a_stored_retry_that_cannot_be_read_retries_nothing(stored):
    request = RunRequest.from_stored({**MINIMAL, "retry": stored})
    assert request.limits.retry == RetryOptions()


def test_nothing_is_retried_unless_requested():
    request = parse_request(MINIMAL)
    assert not request.limits.retry.is_on
    assert not request.limits.retry.covers(1)
    assert "retry" not in request.as_document()


def test_every_field_has_an_invalid_value_here():
    assert {field for field, _, _ in BAD_RETRY} == set(FIELDS["retry"].fields)
    assert {field for field, _, _ in BAD} == set(FIELDS)
    assert {field for field, _, _ in BAD_DISK} == set(FIELDS["disk"].fields)
    assert {field for field, _, _ in BAD_CHECKPOINT} == set(FIELDS["checkpoint"].fields)
    assert {field for field, _, _ in BAD_DOCKER} == set(FIELDS["docker"].fields)
    assert {field for field, _, _ in BAD_SERVE} == set(FIELDS["serve"].fields)
    assert {field for field, _, _ in BAD_EVALUATE} == set(FIELDS["evaluate"].fields)


def test_unknown_kind_is_the_only_problem_since_its_fields_are_not_known():
    (problem,) = problems({"kind": "server", "port": 8080})
    assert str(problem).startswith("kind: 'server' is not a valid kind; known values: train, ")


def test_all_problems_are_reported_at_once():
    document = {
        "script": "../train.py",
        "code": "here",
        "markt": "spot",
        "max_attempts": 0,
        "env": {"RUNCTL_X": "1"},
        "checkpoint": {"keep": 1, "grace_seconds": 300},
    }
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(document)
    named = {problem.field for problem in caught.value.problems}
    assert named == {
        "script",
        "code",
        "markt",
        "max_attempts",
        "env",
        "checkpoint.keep",
        "checkpoint.grace_seconds",
    }
    assert all(field in str(caught.value) for field in named)


def test_an_unknown_field_names_the_nearest():
    (problem,) = problems({**MINIMAL, "instance_type": ["g5.xlarge"]})
    assert "did you mean instance_types?" in problem.message
    (problem,) = problems({**MINIMAL, "zzz": 1})
    assert "known: kind, docker, " in problem.message


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "script"),
        ({"code": CODE}, "script"),
        ({**MINIMAL, "command": ["train"]}, "command"),
        ({"command": ["train"], "args": ["--epochs"]}, "args"),
        ({"script": "train.py"}, "script"),
        ({"script": "s3://bucket/train.py", "code": CODE}, "script"),
    ],
)
def test_fields_that_contradict_each_other_are_reported(document, field):
    assert [problem.field for problem in problems(document)] == [field]


def test_a_deadline_is_kept_in_utc():
    request = parse_request({**MINIMAL, "deadline": "2030-01-01T01:00:00+01:00"})
    assert request.limits.deadline == datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert request.limits.deadline.utcoffset().total_seconds() == 0


requests = st.fixed_dictionaries(
    {},
    optional={
        "env": st.dictionaries(
            st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), st.text("ab=\n", max_size=9)
        ),
        "instance_types": st.lists(
            st.sampled_from(["g5.xlarge", "m5.large", "c7g.2xlarge", "p4d.24xlarge"]),
            min_size=1,
            unique=True,
        ),
        "market": st.sampled_from(MARKETS),
        "credentials": st.sampled_from(CREDENTIALS),
        "group": st.from_regex(r"[A-Za-z0-9_-]{0,64}", fullmatch=True),
        "inputs": st.dictionaries(
            st.sampled_from(["data", "base-model", "A_1"]),
            st.sampled_from(["s3://data/", "s3://data/a/", "s3://data/a.bin"]),
            max_size=3,
        ),
        "auto_resume": st.booleans(),
        "max_attempts": st.integers(1, 1000),
        "deadline": st.datetimes(timezones=st.just(timezone.utc)).map(datetime.isoformat),
        "checkpoint": st.fixed_dictionaries(
            {},
            optional={
                "dir": st.sampled_from(["", "saved", "out/ckpt"]),
                "keep_last": st.integers(1, 1000),
                "grace_seconds": st.integers(0, 90),
                "interval": st.integers(0, 86400),
            },
        ),
        "disk": st.fixed_dictionaries(
            {},
            optional={
                "gib": st.integers(200, 65_536),
                "throughput": st.integers(125, 2000),
                "iops": st.integers(8000, 80_000),
            },
        ),
        "retry": st.fixed_dictionaries(
            {
                "exit_codes": st.just("any")
                | st.lists(st.integers(1, 255), min_size=1, max_size=9, unique=True)
            },
            optional={"max_failures": st.integers(1, 100)},
        ),
        "kind": st.just("serve"),
        "serve": st.fixed_dictionaries(
            {},
            optional={
                "port": st.integers(1024, 65535),
                "checkpoint": st.sampled_from(["", "s3://bucket/model/", "s3://bucket/best.pt"]),
                "probe_path": st.sampled_from(["", "/health"]),
                "startup": st.sampled_from([{}, {"path": "/up", "status": 204}]),
                "liveness": st.sampled_from([{}, {"failures": 2, "timeout_seconds": 9}]),
            },
        ),
        "docker": st.sampled_from(
            [
                {},
                {"image": "registry.example.com:5000/team/train:v1", "login": "secret:hub"},
                {"archive": "s3://bucket/image.tar.gz"},
            ]
        ),
    },
).filter(lambda options: "kind" in options or "serve" not in options)
programs = st.sampled_from(
    [
        {"script": "train.py", "code": CODE, "args": ["--epochs", "3"]},
        {"script": "s3://bucket/t.py"},
        {"command": ["torchrun", "train.py"], "code": CODE},
    ]
)


@given(program=programs, options=requests)
def test_a_request_is_read_back_as_it_was_written(program, options):
    request = parse_request({**program, **options})
    document = json.loads(json.dumps(request.as_document()))
    assert parse_request(document) == RunRequest.from_stored(document) == request
    VALIDATOR.validate(document)


@given(program=programs, options=requests)
def test_the_schema_accepts_what_the_parser_accepts(program, options):
    parse_request({**program, **options})
    VALIDATOR.validate({**program, **options})


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@given(
    field=st.sampled_from(sorted(set(FIELDS) - {"script", "command"})),
    value=anything,
)
def test_the_parser_refuses_what_the_schema_refuses(field, value):
    document = {**MINIMAL, field: value}
    if not VALIDATOR.is_valid(document):
        assert problems(document)


@given(document=anything)
def test_any_document_is_accepted_or_refused_with_problems(document):
    try:
        parse_request(document)
    except InvalidRequestError as exc:
        assert exc.problems  # noqa: PT017 - either way is fine, but nothing else


def test_a_continuation_is_in_the_schema_and_has_no_other_field():
    VALIDATOR.validate({"run_id": "run-1"})
    assert not VALIDATOR.is_valid({"run_id": "run-1", "script": "train.py"})
    assert not VALIDATOR.is_valid({})
