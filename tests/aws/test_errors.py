"""Every error of AWS and its SDK becomes one of ours, and says what to do about it."""

import inspect

import boto3.exceptions
import botocore.exceptions
import pytest
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    IncompleteReadError,
    LoginRefreshRequired,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
    UnknownServiceError,
)
from botocore.parsers import ResponseParserError

from runctl.aws.errors import translated
from runctl.model.errors import (
    QuotaError,
    RefusedError,
    RunctlError,
    TransientError,
    UnexpectedAwsError,
)


def client_error(code, *, status=400):
    return ClientError(
        {
            "Error": {"Code": code, "Message": "said so"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        "Anything",
    )


def translate(error):
    with pytest.raises(RunctlError) as caught, translated():
        raise error
    assert caught.value.__cause__ is error
    return caught.value


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("MaxSpotInstanceCountExceeded", QuotaError),
        ("VcpuLimitExceeded", QuotaError),
        ("InstanceLimitExceeded", QuotaError),
        ("MaxFleetCountExceeded", QuotaError),
        ("AccessDenied", RefusedError),
        ("AccessDeniedException", RefusedError),
        ("UnauthorizedOperation", RefusedError),
        ("AuthFailure", RefusedError),
        ("OptInRequired", RefusedError),
        ("ExpiredToken", RefusedError),
        ("ExpiredTokenException", RefusedError),
        ("InvalidClientTokenId", RefusedError),
        ("UnrecognizedClientException", RefusedError),
        ("SignatureDoesNotMatch", RefusedError),
        ("RequestLimitExceeded", TransientError),
        ("Throttling", TransientError),
        ("ThrottlingException", TransientError),
        ("TooManyRequestsException", TransientError),
        ("ProvisionedThroughputExceededException", TransientError),
        ("SlowDown", TransientError),
        ("InternalError", TransientError),
        ("ServiceUnavailable", TransientError),
        ("RequestTimeout", TransientError),
        ("TransactionConflictException", TransientError),
        ("InvalidInstanceID.NotFound", TransientError),
        ("InvalidLaunchTemplateId.NotFound", TransientError),
    ],
)
def test_a_listed_code_has_a_meaning(code, meaning):
    error = translate(client_error(code))
    assert type(error) is meaning
    assert f"({code})" in str(error)


@pytest.mark.parametrize(
    "code", ["ValidationException", "NoSuchKey", "ResourceNotFoundException", "404", "New", ""]
)
def test_a_code_that_is_not_listed_is_unexpected_and_kept(code):
    error = translate(client_error(code))
    assert type(error) is UnexpectedAwsError
    assert error.code == code
    assert "Anything: said so" in str(error)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_error_is_transient_whatever_its_code(status):
    assert type(translate(client_error("New", status=status))) is TransientError
    assert type(translate(client_error("AccessDenied", status=status))) is RefusedError


def test_an_answer_without_an_error_document_is_unexpected():
    assert type(translate(ClientError({}, "HeadObject"))) is UnexpectedAwsError


@pytest.mark.parametrize(
    ("error", "meaning", "part"),
    [
        (NoCredentialsError(), RefusedError, "aws sso login"),
        (PartialCredentialsError(provider="env", cred_var="x"), RefusedError, "aws configure"),
        (CredentialRetrievalError(provider="x", error_msg="y"), RefusedError, "aws sso login"),
        (TokenRetrievalError(provider="sso", error_msg="x"), RefusedError, "aws sso login"),
        (SSOTokenLoadError(error_msg="x"), RefusedError, "aws sso login"),
        (UnauthorizedSSOTokenError(), RefusedError, "aws sso login"),
        (LoginRefreshRequired(), RefusedError, "aws login"),
        (NoRegionError(), RefusedError, "region; give --region"),
        (ProfileNotFound(profile="p"), RefusedError, "--profile"),
        (EndpointConnectionError(endpoint_url="http://x"), TransientError, "reached"),
        (ConnectTimeoutError(endpoint_url="http://x"), TransientError, "reached"),
        (ReadTimeoutError(endpoint_url="http://x"), TransientError, "reached"),
        (ConnectionClosedError(endpoint_url="http://x"), TransientError, "reached"),
        (ResponseStreamingError(error="reset"), TransientError, "reached"),
        (SSLError(endpoint_url="http://x", error="x"), TransientError, "reached"),
        (ProxyConnectionError(proxy_url="http://x"), TransientError, "reached"),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientError, "arrive"),
        (
            ChecksumError(checksum_type="x", expected_checksum="x", actual_checksum="y"),
            TransientError,
            "arrive",
        ),
        (FlexibleChecksumError(error_msg="x"), TransientError, "arrive"),
        (ResponseParserError("not XML"), TransientError, "not XML"),
        (ParamValidationError(report="Bucket"), UnexpectedAwsError, "Bucket"),
        (UnknownServiceError(service_name="x", known_service_names="y"), UnexpectedAwsError, "x"),
        (RetriesExceededError(OSError("reset")), UnexpectedAwsError, "Retries"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, Exception) else None,
)
def test_an_error_of_the_sdk_has_a_meaning_and_a_remedy(error, meaning, part):
    translation = translate(error)
    assert type(translation) is meaning
    assert part in str(translation)


def sdk_errors():
    for module in (botocore.exceptions, boto3.exceptions):
        for _, error in inspect.getmembers(module, inspect.isclass):
            if issubclass(error, BotoCoreError | ClientError | boto3.exceptions.Boto3Error):
                yield error


@pytest.mark.parametrize("error", sorted(set(sdk_errors()), key=lambda e: e.__name__))
def test_no_error_of_the_sdk_passes_untranslated(error):
    raised = error.__new__(error)
    if isinstance(raised, ClientError):
        raised.response, raised.operation_name = {}, "Anything"
    translate(raised)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [("SlowDown", TransientError), ("AccessDenied", RefusedError), ("New", UnexpectedAwsError)],
)
def test_a_managed_upload_fails_with_the_meaning_of_its_cause(code, meaning):
    def upload():
        try:
            raise client_error(code)
        except ClientError:
            raise S3UploadFailedError("Failed to upload x to y")  # noqa: B904 - as boto3 does

    with pytest.raises(meaning), translated():
        upload()


@pytest.mark.parametrize("error", [KeyError("x"), TransientError("x"), OSError("full")])
def test_all_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, translated():
        raise error
    assert caught.value is error
