"""The tag of machines that are lent to a deployment."""

import re
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.identity import EXISTING_TAG
from runctl.model.lending import Lending, read_lending
from runctl.model.machine import Machine
from runctl.model.pool import Pool

UNTIL = datetime(2030, 1, 1, 18, tzinfo=timezone.utc)
ROLE = "arn:aws:sts::123456789012:assumed-role/Developer/ada@example.com"


def tagged(value: str) -> Machine:
    pool = Pool("m5.large", "us-east-1a", "spot")
    return Machine(instance_id="i-1", state="running", pool=pool, tags={EXISTING_TAG: value})


def test_a_tag_is_read_as_it_was_written():
    zone = timezone(timedelta(hours=2))
    lending = Lending(deployment="runctl", until=UNTIL.astimezone(zone), owner=ROLE)
    assert lending.value == f"deployment=runctl until=2030-01-01T18:00:00Z owner={ROLE}"
    assert read_lending(tagged(lending.value)) == lending


@pytest.mark.parametrize("owner", ["", "arn:aws:iam::1:user/a,b c\nuntil=9999", "x" * 999 + "/ada"])
def test_any_owner_fits_into_a_tag_and_changes_nothing_else(owner):
    value = Lending(deployment="d" * 20, until=UNTIL, owner=owner).value
    assert re.fullmatch(r"[A-Za-z0-9 +\-=._:/@]{1,256}", value)
    read = read_lending(tagged(value))
    assert (read.deployment, read.until) == ("d" * 20, UNTIL)
    assert read.owner.endswith(owner[-4:].replace("\n", "_"))


def test_what_a_later_version_adds_is_ignored():
    assert read_lending(tagged("deployment=a until=2030-01-01T18:00:00Z owner=o for=run-1")) == (
        Lending(deployment="a", until=UNTIL, owner="o")
    )


@pytest.mark.parametrize(
    "value",
    ["", "yes", "until=2030-01-01T18:00:00Z", "deployment=a until=tomorrow", "deployment=a until="],
)
def test_a_tag_without_an_end_lends_nothing(value):
    assert read_lending(tagged(value)) is None
