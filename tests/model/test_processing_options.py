"""The request of a processing run: every problem has its field and its remedy."""

import pytest

from runctl.model.errors import InvalidRequestError
from runctl.model.request import FIELDS, RunRequest
from runctl.model.request_parsing import parse_request

PLACES = {"input": "s3://bucket/raw/", "output": "s3://bucket/outputs/clean/"}
MINIMAL = {
    "kind": "process",
    "script": "prepare.py",
    "code": "s3://bucket/code/abc.tar.gz",
    "process": PLACES,
}
BAD = [
    ("input", "bucket/raw/", "is not an S3 URI; write s3://bucket/key for an object"),
    ("input", 3, "3 is not a string; quote it"),
    ("output", "s3://bucket/clean", "is not a prefix; end it with /"),
    ("output", ["s3://bucket/clean/"], "is not a string"),
    ("workers", 0, "0 is not a whole number from 1 to 256"),
    ("workers", 257, "whole number from 1 to 256"),
    ("instances", 0, "whole number from 1 to 100"),
    ("shard_files", 0, "whole number from 1"),
    ("shard_bytes", "1GB", "whole number from 1"),
    ("retries", -1, "whole number from 0 to 100"),
    ("tolerated_failures", 5, "5 is not a number from 0 to 1 (e.g. 0.01)"),
    ("tolerated_failures", "1%", "is not a number from 0 to 1"),
    ("tolerated_failures", True, "is not a number from 0 to 1"),
    ("first_shard", -1, "whole number from 0"),
    ("shard_count", 0, "whole number from 1"),
]


def problems(document):
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(document)
    return [(problem.field, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_an_invalid_option_is_reported_with_its_field(field, value, message):
    found = dict(problems({**MINIMAL, "process": {**PLACES, field: value}}))
    assert message in found[f"process.{field}"]


def test_every_option_has_an_invalid_value_here():
    assert {field for field, _, _ in BAD} == set(FIELDS["process"].fields)


@pytest.mark.parametrize("missing", ["input", "output"])
def test_input_and_output_are_required(missing):
    places = {name: uri for name, uri in PLACES.items() if name != missing}
    ((field, message),) = problems({**MINIMAL, "process": places})
    assert (field, message.partition(";")[0]) == (f"process.{missing}", "missing")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("s3://buc/raw/", "s3://buc/raw/", "is the input, too"),
        ("s3://buc/raw/", "s3://buc/raw/out/", "is inside the input"),
        ("s3://buc/", "s3://buc/out/", "is inside the input"),
        ("s3://buc/all/raw/", "s3://buc/all/", "contains the input"),
        ("s3://buc/all/raw.csv", "s3://buc/all/", "contains the input"),
    ],
)
def test_results_that_would_be_inputs_are_refused(source, target, message):
    places = {"input": source, "output": target}
    ((field, found),) = problems({**MINIMAL, "process": places})
    assert field == "process.output"
    assert message in found


def test_similar_prefixes_are_different_places():
    places = {"input": "s3://buc/raw", "output": "s3://buc/raw-clean/"}
    assert parse_request({**MINIMAL, "process": places})


def test_what_does_not_fit_the_kind_is_refused():
    found = problems(
        {
            **MINIMAL,
            "inputs": {"data": "s3://bucket/a/"},
            "checkpoint": {"dir": "saved"},
        }
    )
    assert {field for field, _ in found} == {"inputs", "checkpoint.dir"}
    ((field, message),) = problems({**MINIMAL, "kind": "train"})
    assert (field, "kind process" in message) == ("process", True)


def test_a_part_of_a_job_belongs_to_a_group():
    part = {**PLACES, "first_shard": 4, "shard_count": 2}
    ((field, message),) = problems({**MINIMAL, "process": part})
    assert (field, message) == (
        "process.shard_count",
        "only for a run of a group, which sets it; remove it",
    )
    assert parse_request({**MINIMAL, "process": part, "group": "job"})


def test_a_request_is_stored_as_it_was_given():
    given = {**PLACES, "workers": 4, "shard_bytes": 1000, "tolerated_failures": 0.25}
    request = parse_request({**MINIMAL, "process": given})
    assert parse_request(request.as_document()) == request
    assert request.process.tolerated_failures == 0.25
    assert "process" not in RunRequest.from_stored({"script": "train.py"}).as_document()


@pytest.mark.parametrize(
    ("options", "files"),
    [({}, 1), ({"shard_files": 5}, 5), ({"shard_bytes": 10}, 1_000_000)],
)
def test_a_shard_is_a_file_unless_the_request_says_otherwise(options, files):
    request = parse_request({**MINIMAL, "process": {**PLACES, **options}})
    assert request.process.files_a_shard == files


def test_a_first_shard_without_a_number_of_shards_is_rejected():
    ((field, _),) = problems({**MINIMAL, "process": {**PLACES, "first_shard": 4}})
    assert field == "process.first_shard"
