"""The buckets, secrets, parameters and keys of the owner that a deployment lists, as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.clients import AnyClients
from runctl.aws.errors import code_of, translated
from runctl.model.deployed import EncryptionKey
from runctl.model.errors import RefusedError

_REGION_HEADER = "x-amz-bucket-region"


class OwnData:
    """Reads what the owner lists; never a value. Every call may be repeated.

    A missing permission raises RefusedError, also for a bucket of another account, whose policy
    only that account may read.
    """

    def __init__(self, clients: AnyClients) -> None:
        self._clients = clients

    def bucket_region(self, bucket: str) -> str | None:
        """Return the region of a bucket, which S3 names also to those who may not read it."""
        with translated():
            try:
                answer = self._clients.get("s3").head_bucket(Bucket=bucket)["ResponseMetadata"]
            except ClientError as exc:
                if code_of(exc) in {"404", "NoSuchBucket"}:
                    return None
                answer = exc.response["ResponseMetadata"]
                if _REGION_HEADER not in answer.get("HTTPHeaders", {}):
                    if code_of(exc) != "403":
                        raise
                    # An answer to HEAD has no words.
                    raise RefusedError(f"s3:ListBucket on the bucket {bucket} is denied") from exc
        here: str = self._clients.get("s3").meta.region_name
        return str(answer.get("HTTPHeaders", {}).get(_REGION_HEADER, here))

    def bucket_policy(self, bucket: str) -> Mapping[str, Any] | None:
        """Return the policy of a bucket, if it has one."""
        with translated():
            try:
                answer = self._clients.get("s3").get_bucket_policy(Bucket=bucket)
            except ClientError as exc:
                if code_of(exc) == "NoSuchBucketPolicy":
                    return None
                raise
        policy: Mapping[str, Any] = json.loads(answer["Policy"])
        return policy

    def secret(self, name: str) -> str | None:
        """Return the key of a secret; None if it does not exist, or is about to be deleted."""
        with translated():
            try:
                answer = self._clients.get("secretsmanager").describe_secret(SecretId=name)
            except ClientError as exc:
                if code_of(exc) == "ResourceNotFoundException":
                    return None
                raise
        return None if answer.get("DeletedDate") else str(answer.get("KmsKeyId", ""))

    def parameter_key(self, name: str) -> str | None:
        """Return the key of a parameter; its value is not read."""
        # An ARN is that of `x` and of `/x`.
        names = [name] if "/" in name else [name, f"/{name}"]
        named = {"Key": "Name", "Option": "Equals", "Values": names}
        pages = self._clients.get("ssm").get_paginator("describe_parameters")
        with translated():
            # A page may be empty although another one follows.
            for page in pages.paginate(ParameterFilters=[named]):
                for found in page["Parameters"]:
                    return str(found.get("KeyId", ""))
        return None

    def key(self, name: str) -> EncryptionKey | None:
        """Return a key; None if it does not exist."""
        with translated():
            try:
                found = self._clients.get("kms").describe_key(KeyId=name)["KeyMetadata"]
            except ClientError as exc:
                if code_of(exc) == "NotFoundException":
                    return None
                raise
        return EncryptionKey(
            arn=found["Arn"],
            state=found.get("KeyState", ""),
            is_of_customer=found.get("KeyManager") != "AWS",
        )
