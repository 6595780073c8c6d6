"""`runctl verify --run`: what is refused before anything is asked or started."""

import json

import pytest

from runctl.model.resource_options import SMALL_INSTANCE_TYPES

ROLE = "arn:aws:iam::123456789012:role/fis"


@pytest.fixture
def put(deployed):
    def put(**changes):
        client = deployed.clients.get("ssm")
        held = json.loads(client.get_parameter(Name="/runctl/deployment")["Parameter"]["Value"])
        deployed.put_parameter(**{**held, **changes})

    return put


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
