"""Responses of the two services, and their meaning for the user of the reference."""

import json

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.secret_values import SecretValues, UnreadableSecretError
from runctl.model.errors import TransientError
from runctl.model.secret_references import parse_reference

REGION = "us-east-1"
VALUE = "a-value-that-nobody-sees"


def fetch(reference: str) -> str:
    return SecretValues(boto3.client, region=REGION).fetch(parse_reference(reference))


def refusal(reference: str) -> str:
    with pytest.raises(UnreadableSecretError) as caught:
        fetch(reference)
    assert VALUE not in str(caught.value)
    return str(caught.value)


def test_secret_is_read_by_name_and_by_arn_and_always_the_newest_version():
    client = boto3.client("secretsmanager")
    arn = client.create_secret(Name="team/wandb", SecretString="old")["ARN"]
    client.put_secret_value(SecretId="team/wandb", SecretString=VALUE)
    assert fetch("secret:team/wandb") == fetch(f"secret:{arn}") == VALUE


@pytest.mark.parametrize(
    ("key", "value"), [("wandb", VALUE), ("a # b", "x"), ("port", "5432"), ("tls", "true")]
)
def test_one_value_of_a_json_secret(key, value):
    document = {"wandb": VALUE, "a # b": "x", "port": 5432, "tls": True}
    boto3.client("secretsmanager").create_secret(Name="keys", SecretString=json.dumps(document))
    assert fetch(f"secret:keys#{key}") == value
    assert json.loads(fetch("secret:keys")) == document


def test_parameter_is_decrypted_and_a_plain_one_is_read_as_well():
    ssm = boto3.client("ssm")
    ssm.put_parameter(Name="/team/wandb", Value=VALUE, Type="SecureString")
    ssm.put_parameter(Name="plain", Value="text", Type="String")
    assert (fetch("ssm:/team/wandb"), fetch("ssm:plain")) == (VALUE, "text")
    assert fetch("ssm:/team/wandb:1") == VALUE


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("secret:missing", "there is no such secret in us-east-1; create it there, or correct"),
        ("ssm:/missing", "there is no such parameter in us-east-1; create it there, or correct"),
        ("secret:keys#Wandb", "it has no key 'Wandb' (keys are case-sensitive)"),
        ("secret:keys#list", "the value of 'list' is not a string"),
        ("secret:plain#key", "it is not a JSON object, so it has no key 'key'"),
        ("secret:array#key", "it is not a JSON object"),
        ("secret:binary", "it is binary"),
        ("secret:deleted", "it is marked for deletion or has no value; restore it"),
        (
            "secret:arn:aws:secretsmanager:eu-west-1:123456789012:secret:x-AbCdEf",
            "it is in eu-west-1, and this deployment reads secrets of us-east-1; replicate",
        ),
        ("ssm:arn:aws:ssm:eu-west-1:123456789012:parameter/x", "it is in eu-west-1"),
    ],
)
def test_unreadable_secret_is_reported_with_the_remedy_and_without_the_value(reference, expected):
    client = boto3.client("secretsmanager")
    client.create_secret(Name="plain", SecretString=VALUE)
    client.create_secret(Name="array", SecretString=json.dumps([VALUE]))
    client.create_secret(Name="keys", SecretString=json.dumps({"wandb": VALUE, "list": [VALUE]}))
    client.create_secret(Name="binary", SecretBinary=VALUE.encode())
    client.create_secret(Name="deleted", SecretString=VALUE)
    client.delete_secret(SecretId="deleted", RecoveryWindowInDays=7)
    assert expected in refusal(reference)


KMS_OF_SSM = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this "
    "region, or you are not allowed to access."
)


@pytest.mark.parametrize(
    ("service", "code", "message", "expected", "may_pass"),
    [
        ("secretsmanager", "AccessDeniedException", "not authorized", "`secrets`", True),
        (
            "secretsmanager",
            "AccessDeniedException",
            "Access to KMS is not allowed",
            "`secret_keys`",
            True,
        ),
        ("secretsmanager", "DecryptionFailure", "cannot", "it cannot be decrypted", False),
        ("secretsmanager", "InvalidParameterException", "bad", "is not the name", False),
        (
            "secretsmanager",
            "PreviouslyUnknown",
            "odd",
            "it cannot be read: AWS refused GetSecretValue: odd",
            False,
        ),
        ("ssm", "AccessDeniedException", "not authorized", "`parameters`", True),
        ("ssm", "AccessDeniedException", KMS_OF_SSM, "`secret_keys`", True),
        ("ssm", "InvalidKeyId", "disabled", "it cannot be decrypted", False),
        ("ssm", "ValidationException", "bad", "is not the name", False),
        ("ssm", "ParameterVersionNotFound", "3", "no such parameter", True),
    ],
)
def test_refusals_of_aws_are_reported_with_the_setting_that_fixes_them(
    service, code, message, expected, may_pass
):
    client = boto3.client(service)
    reference = "ssm:/a" if service == "ssm" else "secret:a"
    operation = "get_parameter" if service == "ssm" else "get_secret_value"
    with Stubber(client) as stubber:
        stubber.add_client_error(operation, code, message)
        with pytest.raises(UnreadableSecretError) as caught:
            SecretValues(lambda _: client, region=REGION).fetch(parse_reference(reference))
    assert expected in str(caught.value)
    assert message.rstrip(".") in str(caught.value)
    assert caught.value.may_pass is may_pass


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("secretsmanager", "ThrottlingException"),
        ("secretsmanager", "InternalServiceError"),
        ("ssm", "ThrottlingException"),
        ("ssm", "InternalServerError"),
    ],
)
def test_throttling_and_faults_of_the_service_are_transient(service, code):
    client = boto3.client(service)
    reference = "ssm:/a" if service == "ssm" else "secret:a"
    operation = "get_parameter" if service == "ssm" else "get_secret_value"
    with Stubber(client) as stubber:
        stubber.add_client_error(operation, code, "later")
        with pytest.raises(TransientError):
            SecretValues(lambda _: client, region=REGION).fetch(parse_reference(reference))


def problem(reference: str) -> str | None:
    return SecretValues(boto3.client, region=REGION).problem_with(parse_reference(reference))


def test_secret_that_exists_has_no_problem_and_is_not_read():
    client = boto3.client("secretsmanager")
    arn = client.create_secret(Name="team/hub", SecretString="{}")["ARN"]
    for reference in ("secret:team/hub", f"secret:{arn}", "secret:team/hub#key"):
        assert problem(reference) is None
    assert problem("ssm:/missing") is None  # that takes its value
    assert "LastAccessedDate" not in client.describe_secret(SecretId="team/hub")


def test_secret_that_is_missing_or_elsewhere_or_about_to_be_deleted_is_a_problem():
    client = boto3.client("secretsmanager")
    client.create_secret(Name="gone", SecretString="x")
    client.delete_secret(SecretId="gone")
    assert "marked for deletion; restore it" in problem("secret:gone")
    assert "there is no such secret in us-east-1" in problem("secret:missing")
    elsewhere = "secret:arn:aws:secretsmanager:eu-west-1:123456789012:secret:x-AbCdEf"
    assert "it is in eu-west-1, and this deployment reads" in problem(elsewhere)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDeniedException", "it does not exist, or the deployment may not read it; create"),
        ("InvalidParameterException", "this is not the name of a secret"),
        ("SomethingNewException", "it cannot be read: "),
    ],
)
def test_answers_about_a_secret_that_is_not_readable(code, message):
    client = boto3.client("secretsmanager")
    with Stubber(client) as stub:
        stub.add_client_error("describe_secret", code, "why")
        found = SecretValues(lambda _: client, region=REGION).problem_with(
            parse_reference("secret:x")
        )
    assert message in found


def test_throttling_says_nothing_about_a_secret():
    client = boto3.client("secretsmanager")
    values = SecretValues(lambda _: client, region=REGION)
    with Stubber(client) as stub:
        stub.add_client_error("describe_secret", "ThrottlingException", "slowly")
        with pytest.raises(TransientError):
            values.problem_with(parse_reference("secret:x"))
