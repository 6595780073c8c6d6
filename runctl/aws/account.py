"""The resources of a deployment besides instances: volumes, uploads, dead letters."""

import json
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import AnyClients
from runctl.aws.deployment import Deployment
from runctl.aws.errors import code_of, translated
from runctl.model.identity import ATTEMPT_TAG, DEPLOYMENT_TAG, RUN_TAG
from runctl.model.leftovers import Disk, UnfinishedUpload

RUNS = "runs/"


class AwsAccount:
    """Implements `runctl.control.doctor.Account`.

    Every call may be repeated. Throttling is retried inside, and then raises TransientError. A
    missing permission raises RefusedError, which names the action.
    """

    def __init__(self, clients: AnyClients, deployment: Deployment) -> None:
        self._clients = clients
        self._deployment = deployment

    def disks(self) -> list[Disk]:
        """Return the volumes of this deployment's runs; eventually consistent."""
        filters = [
            {"Name": "tag-key", "Values": [RUN_TAG]},
            {"Name": f"tag:{DEPLOYMENT_TAG}", "Values": [self._deployment.name]},
        ]
        pages = self._clients.get("ec2").get_paginator("describe_volumes").paginate(Filters=filters)
        with translated():
            return [_disk(volume) for page in pages for volume in page["Volumes"]]

    def delete_disk(self, volume_id: str) -> None:
        """Delete a volume unless it is already gone; AWS refuses one that is attached."""
        with translated():
            try:
                self._clients.get("ec2").delete_volume(VolumeId=volume_id)
            except ClientError as exc:
                if code_of(exc) != "InvalidVolume.NotFound":
                    raise

    def uploads(self) -> list[UnfinishedUpload]:
        """Return the multipart uploads to the deployment's bucket that were not ended."""
        pages = (
            self._clients.get("s3")
            .get_paginator("list_multipart_uploads")
            .paginate(Bucket=self._deployment.bucket)
        )
        with translated():
            return [
                UnfinishedUpload(
                    key=upload["Key"], upload_id=upload["UploadId"], begun_at=upload["Initiated"]
                )
                for page in pages
                for upload in page.get("Uploads", ())
            ]

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Abort a multipart upload and remove its parts, unless it is already gone."""
        with translated():
            try:
                self._clients.get("s3").abort_multipart_upload(
                    Bucket=self._deployment.bucket, Key=upload.key, UploadId=upload.upload_id
                )
            except ClientError as exc:
                if code_of(exc) != "NoSuchUpload":
                    raise

    def refuses_to_overwrite(self, prefix: str) -> bool:
        """Whether the bucket's policy denies writes below a prefix that do not demand a new key."""
        with translated():
            try:
                answer = self._clients.get("s3").get_bucket_policy(Bucket=self._deployment.bucket)
            except ClientError as exc:
                if code_of(exc) == "NoSuchBucketPolicy":
                    return False
                raise
        resource = f"arn:aws:s3:::{self._deployment.bucket}/{prefix}*"
        statements = json.loads(answer["Policy"]).get("Statement", [])
        return any(
            statement.get("Effect") == "Deny"
            and "s3:PutObject" in _as_list(statement.get("Action"))
            and resource in _as_list(statement.get("Resource"))
            and statement.get("Principal") in ("*", {"AWS": "*"})
            and statement.get("Condition") == {"Null": {"s3:if-none-match": "true"}}
            for statement in statements
        )

    def stored_runs(self) -> list[str]:
        """Return the names of the runs that have objects in the bucket."""
        pages = (
            self._clients.get("s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=self._deployment.bucket, Prefix=RUNS, Delimiter="/")
        )
        with translated():
            return [
                str(prefix["Prefix"]).removeprefix(RUNS).rstrip("/")
                for page in pages
                for prefix in page.get("CommonPrefixes", ())
            ]

    def checkpoints(self, run_id: str) -> CheckpointStore:
        """Return the checkpoint store of a run."""
        return CheckpointStore(
            self._clients.get("s3"), bucket=self._deployment.bucket, run_id=run_id
        )

    def dead_letters(self) -> int | None:
        """Count the events that no function could handle; None without a queue for them."""
        if not self._deployment.dead_letters:
            return None
        name = "ApproximateNumberOfMessages"
        with translated():
            answer = self._clients.get("sqs").get_queue_attributes(
                QueueUrl=self._deployment.dead_letters, AttributeNames=[name]
            )
        return int(answer["Attributes"][name])


def _disk(volume: dict[str, Any]) -> Disk:
    tags = {tag["Key"]: tag["Value"] for tag in volume.get("Tags", [])}
    number = tags.get(ATTEMPT_TAG, "")
    return Disk(
        volume_id=volume["VolumeId"],
        run_id=tags.get(RUN_TAG, ""),
        attempt=int(number) if number.isdecimal() else None,
        state=volume["State"],
        size_gib=volume["Size"],
        created_at=volume["CreateTime"],
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
