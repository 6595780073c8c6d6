"""The policy of a run's session names what the request names, and fits into AssumeRole's limit."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.errors import RequestError
from runctl.model.request import RunRequest
from runctl.policy.session_policy import (
    MAX_CHARACTERS,
    SHORT,
    Place,
    job_of,
    pattern_of,
    problems_with_session,
    run_policy,
    trainer_policy,
    warm_policy,
)

PLACE = Place(bucket="ours", region="eu-west-1", account="123456789012")
ALLOWED_BY_STS = {*"\t\n\r", *map(chr, range(0x20, 0x100))}


def request(**document: Any) -> RunRequest:
    return RunRequest.from_stored({"command": ["train"], **document})


def objects(text: str) -> list[str]:
    """Return the patterns of objects that a policy allows, without `arn:aws:s3:::`."""
    statements = json.loads(text)["Statement"]
    found = [
        each["Resource"] for each in statements if each["Action"] == "s3:*" and "Resource" in each
    ]
    return [arn.removeprefix("arn:aws:s3:::") for arns in found for arn in arns]


def reaches(text: str, key: str) -> bool:
    literal = {"${*}": "[*]", "${?}": "[?]", "${$}": "$"}
    for pattern in objects(text):
        plain = pattern
        for written, meant in literal.items():
            plain = plain.replace(written, meant)
        if fnmatchcase(f"ours/{key}", plain):
            return True
    return False


def test_a_session_reaches_its_run_the_environments_and_what_its_request_names():
    text = run_policy(
        request(
            code="s3://ours/code/abc.tar.gz",
            inputs={"data": "s3://ours/inputs/cifar/", "weights": "s3://ours/runs/b/outputs/w.pt"},
        ),
        "a",
        PLACE,
    )
    for key in (
        "runs/a/checkpoints/parts/x", "environments/current/x", "code/abc.tar.gz",
        "inputs/cifar/train/1.png", "runs/b/outputs/w.pt",
    ):  # fmt: skip
        assert reaches(text, key), key
    for key in (
        "runs/ab/checkpoints/x", "runs/b/checkpoints/parts/x", "runs/b/outputs/w.pt.old",
        "code/def.tar.gz", "inputs/imagenet/1.png", "groups/x/results.json",
    ):  # fmt: skip
        assert not reaches(text, key), key


def test_a_script_in_s3_is_named_by_its_request_and_one_in_the_project_names_nothing():
    assert reaches(run_policy(request(script="s3://ours/code/x.py"), "a", PLACE), "code/x.py")
    assert objects(run_policy(request(script="x.py"), "a", PLACE)) == [
        "ours/runs/a/*", "ours/environments/*"
    ]  # fmt: skip


def test_listings_are_limited_to_the_same_keys():
    text = run_policy(request(inputs={"data": "s3://ours/inputs/cifar/"}), "a", PLACE)
    (listing,) = [
        each for each in json.loads(text)["Statement"] if each["Action"] == "s3:ListBucket"
    ]
    assert listing["Resource"] == "arn:aws:s3:::ours"
    assert listing["Condition"] == {
        "StringLike": {"s3:prefix": ["runs/a/*", "environments/*", "inputs/cifar/*"]}
    }


def test_an_evaluation_reads_the_checkpoints_of_the_run_that_it_names_and_nothing_else_of_it():
    text = run_policy(request(kind="evaluate", evaluate={"checkpoint": "run:b@7"}), "a", PLACE)
    assert reaches(text, "runs/b/checkpoints/manifests/s1.json")
    assert not reaches(text, "runs/b/outputs/x")


def test_a_part_of_a_job_reaches_the_jobs_shards():
    options = {"input": "s3://ours/inputs/a/", "output": "s3://ours/outputs/b/", "shard_count": 3}
    part = request(kind="process", group="job", process=options)
    text = run_policy(part, "job-1", PLACE)
    assert job_of(part) == "job"
    for key in ("runs/job/shards/done/1.json", "runs/job/checkpoints/shards/1.tar.gz"):
        assert reaches(text, key)
    assert not reaches(text, "runs/job/checkpoints/parts/x")
    whole = request(kind="process", group="job", process={**options, "shard_count": 0})
    assert not job_of(whole)
    assert not reaches(run_policy(whole, "a", PLACE), "runs/job/shards/done/1.json")


@pytest.mark.parametrize(
    ("document", "action"),
    [
        ({"docker": {"image": "busybox"}}, "ecr:*"),
        (
            {
                "trial": {
                    "number": 1, "hyperparameters": {}, "metric": "loss", "judge": "f",
                    "first_rung": 1,
                },
                "group": "g",
            },
            "lambda:InvokeFunction",
        ),
    ],
)  # fmt: skip
def test_services_that_a_request_does_not_need_are_taken_away(document, action):
    def services(text: str) -> list[str]:
        return json.loads(text)["Statement"][0]["Action"]

    assert action in services(run_policy(request(**document), "a", PLACE))
    assert action not in services(run_policy(request(), "a", PLACE))


def secrets(text: str) -> list[str]:
    found = [
        each["Resource"]
        for each in json.loads(text)["Statement"]
        if "secretsmanager:GetSecretValue" in each["Action"]
    ]
    return [arn for arns in found for arn in arns]


def test_only_the_secrets_that_the_request_names_can_be_read():
    env = {"A": "secret:team/key#field", "B": "ssm:/team/token:3", "PLAIN": "1"}
    text = run_policy(
        request(env=env, docker={"image": "x/y:z", "login": "secret:hub"}), "a", PLACE
    )
    where = "eu-west-1:123456789012"
    assert secrets(text) == [
        f"arn:aws:secretsmanager:{where}:secret:team/key*",
        f"arn:aws:ssm:{where}:parameter/team/token",
        f"arn:aws:secretsmanager:{where}:secret:hub*",
    ]
    assert secrets(run_policy(request(env={"PLAIN": "1"}), "a", PLACE)) == []


def test_wildcards_and_variables_of_a_key_match_themselves_only():
    text = run_policy(
        request(inputs={"x": "s3://ours/runs/*", "y": "s3://ours/runs/${aws:PrincipalTag/RunId}b"}),
        "a",
        PLACE,
    )
    assert "ours/runs/${*}" in objects(text)
    assert "ours/runs/${$}{aws:PrincipalTag/RunId}b" in objects(text)
    assert not reaches(text, "runs/b/outputs/x")


@given(st.text(max_size=40))
def test_every_key_gives_a_pattern_that_sts_accepts_and_that_matches_it(key):
    pattern = pattern_of(key)
    assert set(pattern) <= ALLOWED_BY_STS
    plain = pattern.replace("${*}", "\0").replace("${?}", "\1").replace("${$}", "$")
    assert len(plain) == len(key)
    assert all(p in (c, "?", "\0", "\1") for p, c in zip(plain, key, strict=True))


def many(prefix: str, count: int = 60) -> dict[str, str]:
    return {
        f"{prefix[5]}{number}": f"{prefix.format(number)}{'k' * 40}/{number}/"
        for number in range(count)
    }


def test_a_long_policy_is_widened_but_never_to_other_runs():
    inputs = {
        **many("s3://ours/inputs/", 30), **many("s3://theirs/data/", 30),
        "b": "s3://ours/runs/b/outputs/x.pt",
    }  # fmt: skip
    text = run_policy(request(inputs=inputs), "a", PLACE)
    assert len(text) <= MAX_CHARACTERS
    assert reaches(text, "inputs/anything")
    assert reaches(text, "runs/b/outputs/x.pt")
    assert not reaches(text, "runs/b/outputs/y.pt")
    assert not reaches(text, "code/other.tar.gz")
    assert "theirs/*" in objects(text)


def test_secrets_give_way_to_the_list_of_the_deployment():
    env = {f"S{number}": f"secret:{'n' * 60}{number}" for number in range(40)}
    text = run_policy(request(env=env), "a", PLACE)
    assert len(text) <= MAX_CHARACTERS
    assert secrets(text) == ["*"]


def test_many_other_buckets_give_way_to_all_but_our_own():
    inputs = {f"i{n}": f"s3://bucket-{n:02}-{'x' * 40}/data/" for n in range(60)}
    text = run_policy(request(inputs=inputs), "a", PLACE)
    assert len(text) <= MAX_CHARACTERS
    (other,) = [each for each in json.loads(text)["Statement"] if "NotResource" in each]
    assert other["NotResource"] == ["arn:aws:s3:::ours", "arn:aws:s3:::ours/*"]
    assert not reaches(text, "runs/b/outputs/x")


def test_inputs_of_too_many_runs_are_refused_with_the_remedy():
    inputs = {f"i{n}": f"s3://ours/runs/{'r' * 50}{n:03}/outputs/x/" for n in range(60)}
    with pytest.raises(RequestError, match=r"inputs: .* copy them below one prefix of inputs/"):
        run_policy(request(inputs=inputs), "a", PLACE)


@given(st.integers(0, 40), st.integers(1, 60))
def test_a_request_has_problems_exactly_if_its_session_would_be_refused(count, length):
    inputs = {f"i{n}": f"s3://ours/runs/{'r' * length}{n:03}/outputs/x/" for n in range(count)}
    asked = request(inputs=inputs)
    problems = problems_with_session(asked, "a", PLACE)
    refused = ""
    try:
        run_policy(asked, "a", PLACE)
    except RequestError as exc:
        refused = str(exc)
    assert [str(problem) for problem in problems] == ([refused] if refused else [])


def test_a_policy_that_sts_could_not_pack_is_made_shorter():
    inputs = many("s3://ours/inputs/", 12)
    long, short = (run_policy(request(inputs=inputs), "a", PLACE, most=n) for n in (2048, SHORT))
    assert len(short) <= SHORT < len(long)


def test_a_waiting_instance_reaches_no_object_and_no_run():
    text = warm_policy(PLACE, table="ledger")
    (statement,) = json.loads(text)["Statement"]
    assert statement["Resource"] == "arn:aws:dynamodb:eu-west-1:123456789012:table/ledger"
    assert statement["Condition"]["ForAllValues:StringLike"] == {"dynamodb:LeadingKeys": "WARM#*"}


def test_a_trainer_writes_only_outputs_of_its_run():
    text = trainer_policy("a", PLACE)
    written = [
        each["Resource"]
        for each in json.loads(text)["Statement"]
        if "s3:PutObject" in each["Action"]
    ]
    assert written == ["arn:aws:s3:::ours/runs/a/outputs/*"]
