"""`runctl aws lend`: who may use an existing instance, and until when."""

from datetime import timedelta

import pytest

from runctl.aws.fleet import Ec2Fleet
from runctl.cli.commands.aws import machines
from runctl.model.identity import EXISTING_TAG, RUN_TAG
from runctl.model.lending import Lending
from runctl.model.machine import Machine
from runctl.model.pool import Pool
from tests.cli.commands.test_instances import busy
from tests.cli.deployed import now

ADA = "arn:aws:iam::123456789012:user/ada"


def tag_of(deployed, instance_id: str) -> str | None:
    answer = deployed.clients.get("ec2").describe_instances(InstanceIds=[instance_id])
    tags = answer["Reservations"][0]["Instances"][0].get("Tags", [])
    return next((tag["Value"] for tag in tags if tag["Key"] == EXISTING_TAG), None)


def lent(*, by="runctl", hours=1.0) -> dict[str, str]:
    until = now() + timedelta(hours=hours)
    return {EXISTING_TAG: Lending(deployment=by, until=until, owner=ADA).value}


def test_a_machine_is_lent_to_the_deployment_by_the_caller_until_then(runctl, deployed, machine):
    mine = machine()
    assert runctl("aws", "lend", mine, "--for", "8h", "--json").document["is_usable"]
    document = runctl("aws", "lend", mine, "--json").document
    caller = deployed.clients.get("sts").get_caller_identity()["Arn"]
    assert document["deployment"] == "runctl"
    assert document["owner"] == caller
    until = now() + timedelta(hours=8)
    shown = document["until"]
    assert (until - timedelta(minutes=5)).isoformat() < shown <= until.isoformat()
    assert tag_of(deployed, mine).startswith("deployment=runctl until=")


def test_an_owner_can_end_it_and_shorten_it(runctl, deployed, machine):
    mine = machine(**lent(hours=9))
    runctl("aws", "lend", mine, "--for", "10m")
    assert runctl("aws", "lend", mine, "--json").document["until"] < (
        (now() + timedelta(hours=1)).isoformat()
    )
    done = runctl("aws", "lend", mine, "--end")
    assert "is not lent to the deployment runctl" in done.stdout
    assert tag_of(deployed, mine) is None
    assert runctl("aws", "lend", mine, "--end").code == 0


def test_the_end_of_a_machine_in_use_names_the_run_that_continues(runctl, deployed, machine):
    mine = machine(**lent())
    busy(deployed, mine)
    done = runctl("aws", "lend", mine, "--end")
    assert "runctl stop mine" in done.stderr
    assert tag_of(deployed, mine) is None


def test_the_list_shows_every_machine_and_what_is_wrong_with_it(runctl, deployed, machine):
    assert runctl("aws", "lend").stdout == "no instance is lent\n"
    tags = {
        "usable": lent(),
        "lent until": lent(hours=-1),
        "deployment second": lent(by="second"),
        "without an end": {EXISTING_TAG: "yes"},
    }
    machines_by_text = {text: machine(**given) for text, given in tags.items()}
    machine()
    listed = runctl("aws", "lend", "--json").document["instances"]
    assert {each["instance_id"] for each in listed} == set(machines_by_text.values())
    usable = [each["instance_id"] for each in listed if each["is_usable"]]
    assert usable == [machines_by_text.pop("usable")]
    lines = runctl("aws", "lend").stdout.splitlines()
    for text, instance_id in machines_by_text.items():
        (line,) = (line for line in lines if line.startswith(instance_id))
        assert text in line


def test_a_machine_that_is_lent_to_another_deployment_stays_so(runctl, deployed, machine):
    theirs = machine(**lent(by="second"))
    before = tag_of(deployed, theirs)
    done = runctl("aws", "lend", theirs, "--for", "1h")
    assert done.code == 2
    assert "RUNCTL_DEPLOYMENT=second" in done.stderr
    assert tag_of(deployed, theirs) == before


def test_a_tag_cannot_steer_the_terminal(runctl, deployed, monkeypatch):
    evil = "\x1b]52;c;ZXZpbA==\x07"
    values = [f"yes{evil}", f"deployment=second until=2030-01-01T00:00:00Z owner={evil}"]
    found = [
        Machine(
            instance_id=f"i-{number}",
            state="running",
            pool=Pool("m5.large", "us-east-1a", "spot"),
            tags={EXISTING_TAG: value},
        )
        for number, value in enumerate(values)
    ]
    monkeypatch.setattr(Ec2Fleet, "find_lent", lambda _: found)
    for words in (["aws", "lend"], ["aws", "lend", "--json"]):
        done = runctl(*words)
        assert done.code == 0
        assert "i-1" in done.stdout
        assert not {"\x1b", "\x07"} & set(done.stdout + done.stderr)


def test_a_machine_of_a_run_cannot_be_lent(runctl, deployed, machine):
    done = runctl("aws", "lend", machine(**{RUN_TAG: "r"}), "--for", "1h")
    assert done.code == 2
    assert "was launched for the run r" in done.stderr


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [({}, False), ({EXISTING_TAG: "yes"}, False), (lent(hours=-1), False), (lent(hours=3), True)],
)
def test_train_lends_the_machine_unless_it_is_lent_for_longer(
    runctl, deployed, project, machine, monkeypatch, given, is_kept
):
    mine = machine(**given)
    monkeypatch.setattr(machines, "wait_for_registration", lambda *_: None)
    checked = []
    monkeypatch.setattr(machines, "run_command", lambda _, name, **__: checked.append(name))
    assert runctl("aws", "train", "--detach", mine, "train.py").code == 0
    assert checked == [mine]
    if is_kept:
        assert tag_of(deployed, mine) == given[EXISTING_TAG]
    else:
        until = tag_of(deployed, mine).split()[1].removeprefix("until=")
        assert now().isoformat() < until < (now() + timedelta(hours=1, minutes=1)).isoformat()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["aws", "lend", "--for", "1h"], "INSTANCE"),
        (["aws", "lend", "--end"], "INSTANCE"),
        (["aws", "lend", "i-0123456789abcdef0", "--for", "1h", "--end"], "--end"),
        (["aws", "lend", "i-0123456789abcdef0", "--for", "8"], "--for"),
        (["aws", "lend", "i-0123456789abcdef0", "--for", "0h"], "--for"),
        (["aws", "lend", "i-0123456789abcdef0", "--for", "31d"], "--for"),
        (["aws", "train", "--lend-for", "never", "i-0123456789abcdef0", "train.py"], "--lend-for"),
    ],
)
def test_invalid_options_are_refused_by_name(runctl, words, expected):
    done = runctl(*words)
    assert done.code == 2
    assert expected in done.stderr
