"""What a build reads as its service role before its first phase: its source, and values."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from runctl.local.codebuild.settings import Variable

_ARN_FIELDS = 7


class InputError(Exception):
    """An input of a build cannot be read; `code` is that of the phase's context."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Inputs:
    """Reads from the local cloud with the keys of a role, as a build does on AWS."""

    def __init__(self, url: str, region: str, session: Mapping[str, str]) -> None:
        self._session = boto3.Session(
            aws_access_key_id=session["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=session["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=session["AWS_SESSION_TOKEN"],
            region_name=region,
        )
        self._url = url

    def values(self, variables: Iterable[Variable]) -> dict[str, str]:
        """Return the values of variables; raise InputError if one cannot be read."""
        return {variable.name: self._value(variable) for variable in variables}

    def download(self, location: str, version: str, folder: Path) -> None:
        """Unpack a ZIP file into a folder; raise InputError if that fails."""
        bucket, _, key = location.removeprefix("arn:aws:s3:::").partition("/")
        if not key or key.endswith("/"):
            raise InputError(
                "SOURCE_NOT_SUPPORTED",
                f"source.location {location}: a folder is not supported by the local cloud",
            )
        options = {"VersionId": version} if version else {}
        try:
            answer = self._client("s3").get_object(Bucket=bucket, Key=key, **options)
            content = answer["Body"].read()
        except (ClientError, BotoCoreError) as exc:
            raise InputError("DOWNLOAD_SOURCE_ERROR", f"{location}: {exc}") from exc
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as exc:
            raise InputError("DOWNLOAD_SOURCE_ERROR", f"{location}: {exc}") from exc

    def _value(self, variable: Variable) -> str:
        try:
            if variable.kind == "PARAMETER_STORE":
                found = self._client("ssm").get_parameters(
                    Names=[variable.value], WithDecryption=True
                )
                if not found["Parameters"]:
                    raise InputError(
                        "Parameter Store error", f"parameter does not exist: {variable.value}"
                    )
                return str(found["Parameters"][0]["Value"])
            if variable.kind == "SECRETS_MANAGER":
                return self._secret(variable.value)
        except (ClientError, BotoCoreError) as exc:
            raise InputError("CLIENT_ERROR", f"{variable.name}: {exc}") from exc
        return variable.value

    def _secret(self, reference: str) -> str:
        """Read `secret-id:json-key:version-stage:version-id`; all but the id may be missing."""
        parts = reference.split(":")
        fields = _ARN_FIELDS if reference.startswith("arn:") else 1
        key, stage, version = (*parts[fields:], "", "", "")[:3]
        request = {"SecretId": ":".join(parts[:fields])}
        request |= {"VersionStage": stage} if stage else {}
        request |= {"VersionId": version} if version else {}
        text = str(self._client("secretsmanager").get_secret_value(**request)["SecretString"])
        if not key:
            return text
        try:
            return str(json.loads(text)[key])
        except (ValueError, KeyError, TypeError) as exc:
            raise InputError(
                "CLIENT_ERROR", f"{reference}: the secret has no JSON key {key!r}"
            ) from exc

    def _client(self, service: str) -> Any:
        open_client: Any = self._session.client  # its overloads name every service
        return open_client(service, endpoint_url=self._url)
