"""The translation of AWS's errors into runctl's own; no error of botocore leaves `runctl.aws`.

An adapter gives a meaning to the codes that its caller distinguishes, such as a missing object; the
rest is translated here, and what is not listed becomes UnexpectedAwsError.
"""

import contextlib
from collections.abc import Iterator

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as UnreachableError
from botocore.parsers import ResponseParserError

from runctl.aws.refusals import explain_refusal
from runctl.model.errors import (
    QuotaError,
    RefusedError,
    RunctlError,
    TransientError,
    UnexpectedAwsError,
)
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
# Codes of services other than EC2.
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


# Transient whatever the code: an answer to HEAD has only the number, and proxies have codes of
# their own.
_TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_EXPIRED_SESSION = (TokenRetrievalError, SSOError)
# The answer was cut off or changed in transit: the request may have been carried out.
_BROKEN_ANSWER = (IncompleteReadError, ChecksumError, FlexibleChecksumError, ResponseParserError)


def code_of(exc: ClientError) -> str:
    """Return AWS's error code."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def message_of(exc: ClientError) -> str:
    """Return AWS's message without the code."""
    return str(exc.response.get("Error", {}).get("Message", ""))


def meaning_of(code: str, message: str) -> RunctlError | None:
    """Return our error for one of AWS's codes, or None for a code that is not listed."""
    answer = f"{message} ({code})"
    if code in _QUOTAS:
        return QuotaError(f"an account quota is used up: {answer}")
    if code in SETUP:
        return RefusedError(explain_refusal(code, message))
    if code in CREDENTIALS:
        return RefusedError(f"AWS does not accept the credentials; renew them: {answer}")
    if code in TRANSIENT:
        return TransientError(f"AWS asks to retry later: {answer}")
    return None


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn every error of AWS and its SDK into one of ours; all others pass unchanged."""
    try:
        yield
    except ClientError as exc:
        raise _error_of(exc) from exc
    except Boto3Error as exc:
        # The transfer manager puts AWS's answer into a text.
        answer = exc.__context__
        raise (_error_of(answer) if isinstance(answer, ClientError) else _unexpected(exc)) from exc
    except (BotoCoreError, ResponseParserError) as exc:
        raise _meaning_of_sdk_error(exc) from exc


def _error_of(exc: ClientError) -> RunctlError:
    code, message = code_of(exc), message_of(exc)
    if meaning := meaning_of(code, message):
        return meaning
    if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _TRANSIENT_STATUSES:
        return TransientError(f"AWS asks to retry later: {message} ({code})")
    answer = f"{message or 'no message'} ({code or 'no code'})"
    return UnexpectedAwsError(f"AWS refused {exc.operation_name}: {answer}", code=code)


def _meaning_of_sdk_error(exc: Exception) -> RunctlError:
    match exc:
        case UnreachableError() | HTTPClientError():
            return TransientError(f"AWS cannot be reached: {exc}")
        case _ if isinstance(exc, _BROKEN_ANSWER):
            return TransientError(f"AWS's answer arrived incomplete or changed: {exc}")
        case _ if isinstance(exc, _NO_CREDENTIALS):
            return RefusedError(
                f"there are no AWS credentials ({exc}); run `aws sso login` or `aws configure`"
            )
        case _ if isinstance(exc, _EXPIRED_SESSION):
            return RefusedError(f"the AWS session has expired ({exc}); run `aws sso login`")
        case LoginError():
            return RefusedError(f"the AWS session has expired ({exc}); run `aws login`")
        case NoRegionError() | ProfileNotFound():
            return RefusedError(f"{str(exc).rstrip('.')}; give --region or --profile")
    return _unexpected(exc)


def _unexpected(exc: Exception) -> UnexpectedAwsError:
    return UnexpectedAwsError(f"the AWS SDK failed: {exc} ({type(exc).__name__})")
