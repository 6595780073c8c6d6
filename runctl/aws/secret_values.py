"""The values behind references to secrets, read from Secrets Manager and Parameter Store."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, message_of, translated
from runctl.model.errors import (
    RefusedError,
    RequestError,
    RunctlError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.secret_references import SecretReference, Store

NOT_FOUND = frozenset(
    {"ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound"}
)
# ValidationException is SSM's answer to the ARN of another region or account.
BAD_NAME = frozenset({"InvalidParameterException", "ValidationException"})
DENIED = frozenset({"AccessDeniedException", "AccessDenied"})
DECRYPTION = frozenset({"DecryptionFailure", "InvalidKeyId"})
# Codes of both services, in addition to those of every service.
SERVICE = frozenset({"InternalServiceError", "InternalServiceErrorException"})


class UnreadableSecretError(RequestError):
    """A secret cannot be read; `may_pass` when that may be the delay of a recent change."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class SecretValues:
    """Reads values in one region; `client` makes the client of a service.

    Reading changes nothing, so a call whose answer was lost is simply repeated. No message contains
    a value.
    """

    def __init__(self, client: Callable[[str], Any], *, region: str) -> None:
        self._client = client
        self._region = region

    def fetch(self, reference: SecretReference) -> str:
        """Return the value.

        Raises UnreadableSecretError with the reason and the remedy, or TransientError if AWS
        throttles or cannot be reached.
        """
        self._check_region(reference)
        try:
            with translated():
                found = self._read(reference)
        except RefusedError as exc:
            raise UnreadableSecretError(f"it cannot be read: {exc}", may_pass=True) from exc
        except UnexpectedAwsError as exc:
            raise UnreadableSecretError(f"it cannot be read: {exc}") from exc
        return _selected(found, reference)

    def problem_with(self, reference: SecretReference) -> str | None:
        """Return why a run could not read a secret, with the remedy; None if it exists.

        Its value is not read, so its keys are not known. Of a parameter nothing is known without
        its value: that is None, too. Raises TransientError like `fetch`.
        """
        if reference.store is not Store.SECRETS_MANAGER:
            return None
        try:
            self._check_region(reference)
            with translated():
                described = self._describe(reference)
        except UnreadableSecretError as exc:
            return str(exc)
        except (RefusedError, UnexpectedAwsError) as exc:
            return f"it cannot be read: {exc}"
        if described.get("DeletedDate"):
            return "it is marked for deletion; restore it with `aws secretsmanager restore-secret`"
        return None

    def _describe(self, reference: SecretReference) -> Mapping[str, Any]:
        client = self._client("secretsmanager")
        try:
            described: Mapping[str, Any] = client.describe_secret(SecretId=reference.name)
        except ClientError as exc:
            if code_of(exc) in DENIED:
                # Of a secret whose name is listed in full, this also answers that it is missing.
                raise UnreadableSecretError(
                    "it does not exist, or the deployment may not read it; create it, or list it "
                    f"in the context `secrets` of the deployment and deploy again: "
                    f"{message_of(exc)} ({code_of(exc)})"
                ) from exc
            if meaning := self._meaning(exc, reference):
                raise meaning from exc
            raise
        return described

    def _check_region(self, reference: SecretReference) -> None:
        if reference.region not in {"", self._region}:
            raise UnreadableSecretError(
                f"it is in {reference.region}, and this deployment reads secrets of "
                f"{self._region}; replicate it there, and name the replica"
            )

    def _read(self, reference: SecretReference) -> str:
        try:
            return self._ask(reference)
        except ClientError as exc:
            if meaning := self._meaning(exc, reference):
                raise meaning from exc
            raise

    def _ask(self, reference: SecretReference) -> str:
        if reference.store is Store.PARAMETER_STORE:
            ssm = self._client("ssm")
            answer = ssm.get_parameter(Name=reference.name, WithDecryption=True)
            return str(answer["Parameter"]["Value"])
        secret = self._client("secretsmanager").get_secret_value(SecretId=reference.name)
        if "SecretString" not in secret:
            raise UnreadableSecretError(
                "it is binary, and a variable takes text; store it as text, such as base64"
            )
        return str(secret["SecretString"])

    def _meaning(self, exc: ClientError, reference: SecretReference) -> RunctlError | None:
        code = code_of(exc)
        answer = f"{message_of(exc)} ({code})"
        what = "secret" if reference.store is Store.SECRETS_MANAGER else "parameter"
        if code in DENIED:
            return UnreadableSecretError(_refusal(answer, reference), may_pass=True)
        if code in SERVICE:
            return TransientError(f"AWS asks to retry later: {answer}")
        if code in NOT_FOUND:
            return UnreadableSecretError(
                f"there is no such {what} in {self._region}; create it there, or correct the name: "
                f"{answer}",
                may_pass=True,
            )
        if code in DECRYPTION:
            return UnreadableSecretError(f"it cannot be decrypted; {_KEYS}: {answer}")
        if code == "InvalidRequestException":
            return UnreadableSecretError(
                "it is marked for deletion or has no value; restore it with `aws secretsmanager "
                f"restore-secret`: {answer}"
            )
        if code in BAD_NAME:
            return UnreadableSecretError(
                f"this is not the name of a {what} of this account and region: {answer}"
            )
        return None


_KEYS = (
    "the key that encrypts it must exist and be enabled, and its ARN be listed in the context "
    "`secret_keys` of the deployment"
)


def _refusal(answer: str, reference: SecretReference) -> str:
    if "kms" in answer.lower() or "ciphertext" in answer.lower():
        return f"this machine may not decrypt it; {_KEYS}: {answer}"
    setting = "secrets" if reference.store is Store.SECRETS_MANAGER else "parameters"
    return (
        f"this machine may not read it; list it in the context `{setting}` of the deployment and "
        f"deploy again: {answer}"
    )


def _selected(found: str, reference: SecretReference) -> str:
    """Return the value of the reference's key. Neither keys nor values that it lacks are named."""
    if not reference.key:
        return found
    try:
        document = json.loads(found)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UnreadableSecretError(
            f"it is not a JSON object, so it has no key {reference.key!r}; leave out "
            f"'#{reference.key}', or store an object"
        )
    if reference.key not in document:
        raise UnreadableSecretError(
            f"it has no key {reference.key!r} (keys are case-sensitive); correct the key, or add it"
        )
    value = document[reference.key]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise UnreadableSecretError(
        f"the value of {reference.key!r} is not a string; store it as one, or leave out "
        f"'#{reference.key}' to get the whole object"
    )
