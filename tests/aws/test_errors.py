"""AWS's errors become ours by their code, and what nobody foresaw stays what it is."""

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    ReadTimeoutError,
    TokenRetrievalError,
)

from runctl.aws.errors import translated
from runctl.model.errors import QuotaError, RefusedError, TransientError


def client_error(code):
    return ClientError({"Error": {"Code": code, "Message": "told so"}}, "Anything")


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
        ("ExpiredTokenException", RefusedError),
        ("InvalidClientTokenId", RefusedError),
        ("RequestLimitExceeded", TransientError),
        ("ThrottlingException", TransientError),
        ("SlowDown", TransientError),
        ("ServiceUnavailable", TransientError),
        ("InvalidInstanceID.NotFound", TransientError),
    ],
)
def test_a_code_that_we_foresee_has_a_meaning_and_keeps_its_cause(code, meaning):
    with pytest.raises(meaning, match=rf"told so \({code}\)") as caught, translated():
        raise client_error(code)
    assert isinstance(caught.value.__cause__, ClientError)


@pytest.mark.parametrize("code", ["ValidationException", "NoSuchKey", "SomethingNew", ""])
def test_a_code_that_nobody_foresaw_passes_unchanged(code):
    with pytest.raises(ClientError), translated():
        raise client_error(code)


@pytest.mark.parametrize(
    ("error", "meaning", "cure"),
    [
        (NoCredentialsError(), RefusedError, "aws sso login"),
        (TokenRetrievalError(provider="sso", error_msg="x"), RefusedError, "aws sso login"),
        (NoRegionError(), RefusedError, "--region"),
        (ProfileNotFound(profile="p"), RefusedError, "--profile"),
        (EndpointConnectionError(endpoint_url="http://x"), TransientError, "reached"),
        (ConnectTimeoutError(endpoint_url="http://x"), TransientError, "reached"),
        (ReadTimeoutError(endpoint_url="http://x"), TransientError, "reached"),
    ],
)
def test_trouble_on_the_way_is_told_with_its_cure(error, meaning, cure):
    with pytest.raises(meaning, match=cure), translated():
        raise error


def test_our_own_errors_pass_unchanged():
    with pytest.raises(KeyError), translated():
        raise KeyError
