"""A reference names a secret of one of two services; an invalid reference is refused."""

import pytest

from runctl.model.errors import InvalidRequestError
from runctl.model.request_parsing import parse_request
from runctl.model.secret_references import (
    BadReferenceError,
    SecretReference,
    Store,
    parse_reference,
    references_in,
)

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:team/wandb-AbCdEf"


@pytest.mark.parametrize(
    ("value", "store", "name", "key"),
    [
        ("secret:wandb", Store.SECRETS_MANAGER, "wandb", ""),
        ("secret:team/a_b+c=d.e@f-g", Store.SECRETS_MANAGER, "team/a_b+c=d.e@f-g", ""),
        ("secret:team/keys#wandb", Store.SECRETS_MANAGER, "team/keys", "wandb"),
        ("secret:keys#a key: with #", Store.SECRETS_MANAGER, "keys", "a key: with #"),
        (f"secret:{ARN}", Store.SECRETS_MANAGER, ARN, ""),
        (f"secret:{ARN}#hf", Store.SECRETS_MANAGER, ARN, "hf"),
        ("ssm:/team/wandb", Store.PARAMETER_STORE, "/team/wandb", ""),
        ("ssm:wandb", Store.PARAMETER_STORE, "wandb", ""),
        ("ssm:/team/wandb:3", Store.PARAMETER_STORE, "/team/wandb:3", ""),
        (
            "ssm:arn:aws:ssm:eu-west-1:111122223333:parameter/team/wandb",
            Store.PARAMETER_STORE,
            "arn:aws:ssm:eu-west-1:111122223333:parameter/team/wandb",
            "",
        ),
    ],
)
def test_reference_is_shown_as_it_was_written(value, store, name, key):
    reference = parse_reference(value)
    assert reference == SecretReference(store=store, name=name, key=key)
    assert str(reference) == value


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("secret:", "is not a valid secret"),
        ("secret:two words", "is not a valid secret"),
        ("secret:wandb#", "no key after '#'"),
        (f"secret:{ARN}:wandb::", f"write secret:{ARN}#wandb"),
        ("secret:arn:aws:s3:::bucket", "is not a valid secret"),
        ("ssm:", "is not a valid parameter"),
        ("ssm:/team/wandb#key", "a parameter has no keys"),
        ("ssm:/a b", "is not a valid parameter"),
        ("secret:wandb\n", "is not a valid secret"),
    ],
)
def test_reference_that_names_nothing_is_refused_with_the_rule(value, rule):
    with pytest.raises(BadReferenceError) as caught:
        parse_reference(value)
    assert rule in str(caught.value)
    with pytest.raises(InvalidRequestError, match="env: WANDB_API_KEY"):
        parse_request({"command": ["train"], "env": {"WANDB_API_KEY": value}})


def test_other_values_are_not_references():
    assert parse_reference("secretly") is None
    env = {"A": "1", "B": "Secret:x", "C": "secret:x", "D": "ssm:/y"}
    assert {name: str(reference) for name, reference in references_in(env).items()} == {
        "C": "secret:x",
        "D": "ssm:/y",
    }


def test_the_region_is_that_of_an_arn():
    assert [parse_reference(text).region for text in (f"secret:{ARN}", "secret:wandb")] == [
        "eu-west-1",
        "",
    ]
