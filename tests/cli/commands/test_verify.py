"""`runctl verify`: its table, and what `--run` refuses before anything is asked or started."""

import json
from collections import Counter

import pytest

from runctl.cli.commands.verify import page_of
from runctl.control.verification.verify import Verified
from runctl.model.resource_options import SMALL_INSTANCE_TYPES

ROLE = "arn:aws:iam::123456789012:role/fis"


@pytest.fixture
def put(deployed):
    def put(**changes):
        client = deployed.clients.get("ssm")
        held = json.loads(client.get_parameter(Name="/runctl/deployment")["Parameter"]["Value"])
        deployed.put_parameter(**{**held, **changes})

    return put


def test_what_the_caller_lacks_on_many_resources_is_one_row():
    refused = "the permission iam:X on arn:aws:iam::1:role/{} was refused; change the policies"
    results = [
        Verified(check="roles", name=name, problem=refused.format(name)) for name in ("a", "b")
    ]
    results += [
        Verified(check="roles", name="c"),
        Verified(check="account", name="d", problem=refused.format("d")),
    ]
    table, summary = page_of(results, Counter(result.state for result in results))
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert [row[:4] for row in rows] == [
        ("roles", "passed", "1 of 3", ""),
        ("roles", "unknown", "2 of 3", refused.replace(" on arn:aws:iam::1:role/{}", "")),
        ("account", "unknown", "d", refused.format("d")),
    ]
    assert summary == "1 passed, 0 failed, 3 unknown"


def test_a_deployment_without_the_role_has_to_be_updated(runctl, deployed):
    done = runctl("verify", "--run", "--yes")
    assert done.code == 2
    assert "has no role with which AWS FIS" in " ".join(done.stderr.split())
    assert "cdk deploy --all" in " ".join(done.stderr.split())


def test_it_does_not_start_without_anybody_to_ask(runctl, put):
    put(fault_injection_role=ROLE)
    done = runctl("verify", "--run")
    assert done.code == 2
    assert "--yes: required with --run" in " ".join(done.stderr.split())


def test_a_deployment_that_allows_no_small_type_is_named(runctl, put):
    put(fault_injection_role=ROLE, limits={"instance_types": ["g5.*"]})
    done = runctl("verify", "--run", "--yes", "--json")
    assert done.code == 2
    message = done.document["error"]["message"]
    assert SMALL_INSTANCE_TYPES[0] in message
    assert "allowed_instance_types" in message
