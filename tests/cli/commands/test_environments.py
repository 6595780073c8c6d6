"""`runctl environments`: what is stored, what it costs, and its removal."""

import json
from datetime import date

import pytest

from runctl import __version__
from runctl.aws.environment_catalog import EnvironmentCatalog
from runctl.aws.environments import RunGeneration
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.request_parsing import parse_request
from runctl.model.stored_environment import StoredEnvironment
from tests.cli.deployed import BUCKET

A, B = "a" * 64, "b" * 64
TODAY = date(2026, 1, 1)


@pytest.fixture
def stored(deployed):
    """An environment that two runs used, and one that nobody is offered any more."""
    catalog = EnvironmentCatalog(deployed.clients.get("s3"), bucket=BUCKET)
    manifest = Manifest(run_id="", step=None, attempt=1, taken_at="now", entries=())
    sha256 = catalog.put_manifest(A, manifest)
    contents = StoredEnvironment(
        manifest=sha256,
        source="requirements.txt",
        size_bytes=5_400_000_000,
        python="3.12.3",
        platform="x86_64",
        packages=(("numpy", "2.1.0"), ("torch", "2.8.0")),
    )
    catalog.make_current(A, contents)
    for run_id in ("lm", "vision"):
        catalog.record_use_by(RunGeneration(run_id=run_id), A, sha256)
    catalog.note_use(B, TODAY)
    return catalog


def keys(deployed):
    found = deployed.clients.get("s3").list_objects_v2(Bucket=BUCKET, Prefix="environments/")
    return {item["Key"] for item in found.get("Contents", ())}


def test_an_empty_deployment_has_none(deployed, runctl):
    done = runctl("environments", "list")
    assert (done.code, done.stdout) == (0, "no environments are stored\n")
    assert runctl("environments", "list", "--json").document == {
        "environments": [], "stored_bytes": 0, "usd_per_month": 0.0,
    }  # fmt: skip


def test_the_list_has_contents_size_and_runs(stored, runctl):
    document = runctl("environments", "list", "--json").document
    first = next(each for each in document["environments"] if each["fingerprint"] == A)
    last_used = first.pop("last_used")
    assert last_used.startswith("20")
    assert first == {
        "fingerprint": A,
        "runs": ["lm", "vision"],
        "is_current": True,
        "source": "requirements.txt",
        "size_bytes": 5_400_000_000,
        "python": "3.12.3",
        "platform": "x86_64",
        "packages": [
            {"name": "numpy", "version": "2.1.0"},
            {"name": "torch", "version": "2.8.0"},
        ],
    }
    (other,) = (each for each in document["environments"] if each["fingerprint"] == B)
    assert (other["is_current"], other["packages"]) == (False, [])
    assert document["stored_bytes"] > 0
    page = runctl("environments", "list").stdout
    assert "aaaaaaaaaaaa" in page
    assert "5.4 GB" in page
    assert "lm, vision" in page
    assert "not offered to new runs" in page
    assert "a month (estimated with the price of S3 Standard in us-east-1)" in page


def test_an_unreadable_environment_is_listed_without_contents(stored, deployed, runctl):
    stored.remove([identity.current_environment_key(A)])
    deployed.clients.get("s3").put_object(
        Bucket=BUCKET, Key=identity.current_environment_key(A), Body=b"no JSON"
    )
    done = runctl("environments", "list", "--json")
    assert done.code == 0
    assert not any(each["is_current"] for each in done.document["environments"])


def test_a_dry_run_removes_nothing_and_pruning_what_was_shown(stored, deployed, runctl):
    before = keys(deployed)
    planned = runctl("environments", "prune", "--older-than", "0", "--dry-run", "--json").document
    assert (set(planned["removed"]), planned["older_than_days"]) == ({A, B}, 0)
    assert keys(deployed) == before
    done = runctl("environments", "prune", "--older-than", "0")
    assert (done.code, "removed 2 of 2 environments, and 0 B of parts" in done.stdout) == (0, True)
    assert keys(deployed) == set()


def test_parts_that_are_too_recent_to_remove_are_shown_with_their_size(deployed, runctl):
    s3 = deployed.clients.get("s3")
    s3.put_object(Bucket=BUCKET, Key=f"{identity.ENVIRONMENT_PARTS}{A}", Body=bytes(3000))
    done = runctl("environments", "prune")
    assert "removed 0 of 0 environments that no run has used for 30 days, and 0 B" in done.stdout
    assert "3.0 kB of parts that nothing names are removed once they are 3 days old" in done.stdout
    assert runctl("environments", "prune", "--json").document["bytes_removed_later"] == 3000
    listed = runctl("environments", "list").stdout
    assert listed.startswith("no environments are stored\nparts that nothing names: 3.0 kB in S3")


def test_the_deployments_setting_is_the_default(stored, deployed, runctl):
    document = runctl("environments", "prune", "--json").document
    assert (document["removed"], document["older_than_days"]) == ([], 30)
    ssm = deployed.clients.get("ssm")
    held = json.loads(ssm.get_parameter(Name="/runctl/deployment")["Parameter"]["Value"])
    deployed.put_parameter(**{**held, "environment_days": 5})
    assert runctl("environments", "prune", "--json").document["older_than_days"] == 5


def test_environments_of_runs_that_have_not_ended_stay(stored, deployed, runctl):
    deployed.begin("lm")
    document = runctl("environments", "prune", "--older-than", "0", "--json").document
    assert document["removed"] == [B]
    assert identity.current_environment_key(A) in keys(deployed)


def test_doctor_says_what_they_cost_and_whether_they_can_be_replaced(stored, deployed, runctl):
    ssm = deployed.clients.get("ssm")
    held = json.loads(ssm.get_parameter(Name="/runctl/deployment")["Parameter"]["Value"])
    deployed.put_parameter(**{**held, "version": __version__})
    deployed.protect_environments()
    done = runctl("doctor", "--json")
    assert done.document["environments"]["count"] == 2
    assert done.document["environments"]["stored_bytes"] > 0
    (check,) = (each for each in done.document["checks"] if each["check"] == "environments")
    assert check["findings"] == []
    assert "environments: 2, " in runctl("doctor").stdout
    deployed.clients.get("s3").delete_bucket_policy(Bucket=BUCKET)
    done = runctl("doctor")
    assert (done.code, "lets any instance replace" in done.stdout) == (1, True)


def request_of(deployed, name):
    arn = deployed.workflow.execution_arn(name)
    described = deployed.clients.get("stepfunctions").describe_execution(executionArn=arn)
    return json.loads(described["input"])


@pytest.mark.parametrize(
    ("settings", "words", "expected"),
    [
        ("", (), "m7i.large"),
        ('instance_types = ["g5.xlarge", "m5.large"]\n', (), "m7i.large"),
        ('instance_types = ["m7g.xlarge"]\n', (), "m7g.large"),
        ("", ("--instance-types", "g5.xlarge,g6.xlarge"), "g5.xlarge"),
    ],
)
def test_building_starts_a_run_without_a_program_on_small_instances(
    project, deployed, runctl, settings, words, expected
):
    (project / "requirements.txt").write_text("numpy\n")
    (project / ".runctl.toml").write_text(settings)
    done = runctl("environments", "build", "--name", "e", "--detach", "--json", *words)
    assert (done.code, done.document["run_id"]) == (0, "e"), done.stderr
    request = request_of(deployed, "e")
    assert (request["kind"], request["command"]) == ("environment", ["true"])
    assert request["instance_types"][0] == expected
    assert request["code"].startswith(f"s3://{BUCKET}/code/")
    assert parse_request(request).kind == "environment"


def test_building_for_a_script_uses_its_own_declaration(project, deployed, runctl):
    (project / "train.py").write_text("# /// script\n# dependencies = ['numpy']\n# ///\n")
    words = ("environments", "build", str(project), "--detach")
    assert "no packages are declared" in runctl(*words).stderr
    done = runctl(*words, "--script", "train.py", "--json")
    assert done.code == 0, done.stderr
    assert done.document["run_id"].startswith("environment-")
    request = request_of(deployed, done.document["run_id"])
    assert (request["script"], "command" in request) == ("train.py", False)


@pytest.mark.parametrize(
    ("files", "words", "expected"),
    [
        ({}, (), "no packages are declared, so there is nothing to build"),
        ({"requirements.txt": "./gone\n"}, (), "gone does not exist in the project"),
        ({"requirements.txt": "x\n"}, ("--script", "gone.py"), "--script: 'gone.py' does not"),
        ({"requirements.txt": "x\n"}, ("none-such",), "PROJECT: 'none-such' is not a folder"),
        ({"requirements.txt": "x\n"}, ("--name", "a b"), "--name: 'a b' is not"),
        ({"requirements.txt": "x\n"}, ("--instance-types", "huge"), "not a valid instance type"),
        (
            {
                "requirements.txt": "x\n",
                ".runctl.toml": 'instance_types = ["m7g.large", "m5.large"]\n',
            },
            (),
            "each of which needs an environment of its own; give types of one of them",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_starts(
    project, deployed, runctl, files, words, expected
):
    for name, text in files.items():
        (project / name).write_text(text)
    done = runctl("environments", "build", *words)
    assert (done.code, expected in done.stderr) == (2, True), done.stderr
    assert (deployed.executions(), deployed.objects()) == ([], [])
