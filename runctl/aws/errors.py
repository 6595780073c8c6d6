"""What AWS's error codes mean in our words."""

import contextlib
from collections.abc import Iterator

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as UnreachableError

from runctl.aws.refusals import explain_refusal
from runctl.model.errors import QuotaError, RefusedError, RunctlError, TransientError
from runctl.model.refusal import FAULTS, RACES, SETUP, THROTTLING, VCPU_QUOTAS

CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "RequestExpired",
    }
)
# Of services other than EC2.
_BUSY = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
TRANSIENT = THROTTLING | FAULTS | RACES | _BUSY
_QUOTAS = VCPU_QUOTAS | {"MaxFleetCountExceeded"}


def code_of(exc: ClientError) -> str:
    """Return AWS's error code."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def meaning_of(code: str, message: str) -> RunctlError | None:
    """Return our error for one of AWS's codes, or None when it is not one we foresee."""
    told = f"{message} ({code})"
    if code in _QUOTAS:
        return QuotaError(f"an account quota is used up: {told}")
    if code in SETUP:
        return RefusedError(explain_refusal(code, message))
    if code in CREDENTIALS:
        return RefusedError(f"AWS does not accept the credentials; renew them: {told}")
    if code in TRANSIENT:
        return TransientError(f"AWS asks to come back later: {told}")
    return None


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn AWS errors that we foresee into ours; everything else passes unchanged."""
    try:
        yield
    except ClientError as exc:
        meaning = meaning_of(code_of(exc), exc.response.get("Error", {}).get("Message", ""))
        if meaning is None:
            raise
        raise meaning from exc
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as exc:
        raise RefusedError(
            f"there are no AWS credentials ({exc}); run `aws sso login` or `aws configure`"
        ) from exc
    except (TokenRetrievalError, SSOError) as exc:
        raise RefusedError(f"the AWS session has expired ({exc}); run `aws sso login`") from exc
    except (NoRegionError, ProfileNotFound) as exc:
        raise RefusedError(f"{exc}; give --region or --profile") from exc
    except (UnreachableError, HTTPClientError) as exc:
        raise TransientError(f"AWS cannot be reached: {exc}") from exc
