"""Builds have a program `aws` also where the AWS CLI is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.clouds import Cloud, unique

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
MAIN = (
    f"import sys; sys.path.insert(0, {str(PROJECT)!r}); "
    "from runctl.local.codebuild.aws_program import main; main()"
)


def aws(cloud: Cloud, *arguments: str, code: int = 0) -> str:
    """Run the program, and return its output, or its error."""
    ended = subprocess.run(
        [sys.executable, "-I", "-c", MAIN, *arguments],
        env=cloud.endpoint.environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr if code else ended.stdout


def test_objects_are_copied_in_both_directions(cloud: Cloud, tmp_path: Path) -> None:
    bucket = unique("bucket")
    cloud.client("s3").create_bucket(Bucket=bucket)
    (tmp_path / "a").write_text("content")
    aws(cloud, "s3", "cp", str(tmp_path / "a"), f"s3://{bucket}/folder/", "--only-show-errors")
    aws(cloud, "s3", "cp", f"s3://{bucket}/folder/a", str(tmp_path / "b"), "--only-show-errors")
    assert (tmp_path / "b").read_text() == "content"
    assert aws(cloud, "s3", "cp", f"s3://{bucket}/folder/a", "-") == "content"
    missing = aws(cloud, "s3", "cp", f"s3://{bucket}/none", str(tmp_path / "c"), code=255)
    assert "404" in missing
    assert not (tmp_path / "c").exists()


def test_values_are_read_as_text(cloud: Cloud) -> None:
    name = unique("name")
    cloud.client("ssm").put_parameter(Name=name, Value="one\ntwo", Type="SecureString")
    cloud.client("secretsmanager").create_secret(Name=name, SecretString="s")
    parameter = ["ssm", "get-parameter", "--name", name, "--with-decryption"]
    secret = ["secretsmanager", "get-secret-value", f"--secret-id={name}"]
    assert aws(cloud, *parameter, "--query", "Parameter.Value", "--output", "text") == "one\ntwo\n"
    assert aws(cloud, *secret, "--query", "SecretString", "--output", "text") == "s\n"
    account = aws(cloud, "sts", "get-caller-identity", "--query", "Account")
    assert account == '"000000000000"\n'


def test_the_password_of_the_registry_is_printed(cloud: Cloud) -> None:
    password = aws(cloud, "ecr", "get-login-password", "--region", "us-east-1")
    assert len(password.strip()) > 20
    assert password.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["s3"], 252, "usage: aws"),
        (["s3", "sync", ".", "s3://a"], 252, "install the AWS CLI"),
        (["s3", "cp", "a", "s3://b/c", "--recursive"], 252, "--recursive"),
        (["s3", "cp", "a", "b"], 252, "between a file and an object"),
        (["sts", "get-caller-identitty"], 252, "get-caller-identitty"),
        (["ssm", "get-parameter", "--nam", "x"], 252, "--nam"),
        (["ssm", "get-parameter", "--name", "/no/such"], 255, "ParameterNotFound"),
        (["sts", "get-caller-identity", "--output", "text"], 252, "--output text"),
    ],
)
def test_what_is_not_supported_or_refused_fails_with_the_reason(
    cloud: Cloud, arguments: list[str], code: int, told: str
) -> None:
    assert told in aws(cloud, *arguments, code=code)
