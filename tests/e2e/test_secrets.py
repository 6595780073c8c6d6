"""A trainer gets the secrets that its request refers to, and nothing else stores them."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.testbed import Testbed

pytestmark = pytest.mark.e2e

# Reports which values it has, prints them as careless programs do, and trains until it is asked to
# stop.
PROGRAM = """
import hashlib, json, os, sys, time
from runctl import training

names = ("WANDB_API_KEY", "HF_TOKEN", "PEM")
told = {name: hashlib.sha256(os.environ[name].encode()).hexdigest() for name in names}
print(json.dumps(told), flush=True)
print("settings:", os.environ["WANDB_API_KEY"], os.environ["HF_TOKEN"], flush=True)
print(os.environ["PEM"], file=sys.stderr, flush=True)
found = training.restore()
step = found.step if found else 0
while not training.should_stop() and (step < 1 or os.environ["RUNCTL_ATTEMPT"] == "1"):
    if step < 1:
        step += 1
        training.save(lambda path: path.write_text("weights"), step, keep=2)
    time.sleep(0.05)
"""


def store(testbed: Testbed, name: str, values: dict[str, str]) -> None:
    """Store values as a secret with two keys and as a parameter, or replace existing ones."""
    manager, ssm = testbed.clients.get("secretsmanager"), testbed.clients.get("ssm")
    text = json.dumps({"wandb": values["WANDB_API_KEY"], "hf": values["HF_TOKEN"]})
    try:
        manager.create_secret(Name=f"e2e/{name}", SecretString=text)
    except manager.exceptions.ResourceExistsException:
        manager.put_secret_value(SecretId=f"e2e/{name}", SecretString=text)
    ssm.put_parameter(Name=f"/e2e/{name}", Value=values["PEM"], Type="SecureString", Overwrite=True)


def new_values() -> dict[str, str]:
    return {
        "WANDB_API_KEY": secrets.token_hex(20),
        "HF_TOKEN": f"hf_{secrets.token_urlsafe(24)}",
        "PEM": f"-----BEGIN TEST-----\n{secrets.token_urlsafe(40)}\n-----END TEST-----",
    }


def digests(values: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in values.items()}


def needles(*values: dict[str, str]) -> list[str]:
    """Return what to search for; of several lines, only the secret one."""
    return [max(text.splitlines(), key=len) for value in values for text in value.values()]


def told_by(testbed: Testbed, run_id: str, attempt: int) -> dict[str, str]:
    (line,) = [line for line in testbed.log(run_id, attempt) if line.startswith("{")]
    return dict(json.loads(line))


def command_lines() -> str:
    """Return every command line on this machine, whose processes include the instances'."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def kept_by_the_account(testbed: Testbed, run_id: str) -> Iterator[tuple[str, str]]:
    """Yield everything that the account stores, with its place."""
    s3, logs = testbed.clients.get("s3"), testbed.clients.get("logs")
    bucket, group = testbed.deployment.bucket, testbed.deployment.log_group
    pages = testbed.clients.get("dynamodb").get_paginator("scan")
    yield "ledger", str([*pages.paginate(TableName=testbed.deployment.table)])
    states = testbed.clients.get("stepfunctions")
    arn = testbed.workflow.execution_arn(run_id)
    yield "execution", str(states.describe_execution(executionArn=arn))
    history = states.get_paginator("get_execution_history").paginate(executionArn=arn)
    yield "history", str([*history])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            body = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            yield item["Key"], f"{item['Key']} {body.decode(errors='replace')}"
    for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group):
        for event in page["events"]:
            yield event["logStreamName"], event["message"]


def readable_by_others(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the files of a machine that all its users may read."""
    for path in root.rglob("*"):
        folders = [folder for folder in path.parents if folder.is_relative_to(root)]
        try:
            if path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_mode & 0o004 and all(
                parent.stat().st_mode & 0o001 for parent in folders
            ):
                yield str(path), path.read_bytes().decode(errors="replace")
        except OSError:
            continue


def test_a_run_rereads_its_secrets_after_an_interruption_and_nothing_stores_them(
    testbed: Testbed, new_name
):
    run_id, old, new = new_name(), new_values(), new_values()
    store(testbed, run_id, old)
    testbed.start(
        {
            "code": testbed.upload_project({"train.py": PROGRAM}),
            "script": "train.py",
            "env": {
                "WANDB_API_KEY": f"secret:e2e/{run_id}#wandb",
                "HF_TOKEN": f"secret:e2e/{run_id}#hf",
                "PEM": f"ssm:/e2e/{run_id}",
            },
        },
        name=run_id,
    )
    testbed.wait_for_training(run_id, attempt=1, step=1)
    first = testbed.create_test_spot_instance(run_id)
    shown = command_lines()
    state = Path(testbed.cloud.instance(first)["root"]) / "var/lib/runctl"
    on_disk = [*readable_by_others(state)]
    store(testbed, run_id, new)  # like a rotation
    testbed.simulate_spot_interruption(run_id, attempt=1)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert told_by(testbed, run_id, 1) == digests(old)
    assert told_by(testbed, run_id, 2) == digests(new)
    assert "settings: *** ***" in testbed.log(run_id, 1)
    values = needles(old, new)
    assert [value for value in values if value in shown] == []
    assert on_disk
    assert [path for path, text in on_disk for value in values if value in text] == []
    kept = [*kept_by_the_account(testbed, run_id)]
    assert {"ledger", "execution", "history"} < {place for place, _ in kept}
    assert any(f"secret:e2e/{run_id}#wandb" in text for _, text in kept)
    assert [place for place, text in kept for value in values if value in text] == []


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("secret:elsewhere/NAME", "this machine may not read it; list it in the context `secrets`"),
        ("ssm:/elsewhere/NAME", "list it in the context `parameters`"),
        ("secret:e2e/missing-NAME", "there is no such secret in us-east-1"),
        ("ssm:/e2e/missing-NAME", "there is no such parameter in us-east-1"),
    ],
)
def test_a_secret_that_cannot_be_read_ends_the_run_before_its_trainer_starts(
    testbed: Testbed, new_name, reference: str, told: str
):
    run_id = new_name()
    reference = reference.replace("NAME", run_id)
    value = secrets.token_hex(20)
    if "elsewhere" in reference:
        testbed.clients.get("secretsmanager").create_secret(
            Name=f"elsewhere/{run_id}", SecretString=value
        )
        testbed.clients.get("ssm").put_parameter(
            Name=f"/elsewhere/{run_id}", Value=value, Type="SecureString"
        )
    testbed.start(
        {
            "code": testbed.upload_project({"train.py": "print('started')"}),
            "script": "train.py",
            "env": {"WANDB_API_KEY": reference},
            "retry": {"exit_codes": "any"},
        },
        name=run_id,
    )
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED", testbed.story(run_id)
    run, attempts = testbed.run(run_id), testbed.attempts(run_id)
    assert len(attempts) == 1
    assert f"env.WANDB_API_KEY: {reference}: " in run.reason
    assert told in run.reason
    assert value not in run.reason
    assert "started" not in testbed.log(run_id, 1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("e2e/none-NAME", "there is no such secret in us-east-1"),
        ("elsewhere/NAME", "it does not exist, or the deployment may not read it"),
    ],
)
def test_a_login_that_no_instance_could_read_is_refused_before_one_is_paid_for(
    testbed: Testbed, new_name, name: str, told: str
):
    run_id = new_name()
    reference = f"secret:{name.replace('NAME', run_id)}"
    docker = {"image": "registry.example.com/train:v1", "login": reference}
    testbed.start({"docker": docker}, name=run_id)
    ended = testbed.wait_for_end(run_id)
    assert ended.status == "FAILED"
    assert f"docker.login: {reference}: {told}" in ended.cause
    assert testbed.ledger.find_run(run_id) is None
