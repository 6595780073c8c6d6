"""The capabilities of what is stored: ledger, objects, secrets and messages."""

from __future__ import annotations

from stacks.capabilities.base import (
    CapabilitiesBase,
    Capability,
    allow,
)


class StorageCapabilities(CapabilitiesBase):
    """What functions may do with what is stored."""

    def ledger(self, *actions: str) -> Capability:
        """Use the ledger's items; a transaction needs the permissions of its writes."""
        return Capability(
            statements=[
                allow([f"dynamodb:{action}" for action in actions], [self._storage.table.table_arn])
            ],
            variables={"RUNCTL_TABLE": self._storage.table.table_name},
        )

    def list_unsettled_runs(self) -> Capability:
        """List the unsettled runs; querying an index needs a separate permission."""
        index = f"{self._storage.table.table_arn}/index/unsettled"
        return Capability(
            statements=[allow(["dynamodb:Query"], [index])],
            variables={"RUNCTL_TABLE": self._storage.table.table_name},
        )

    def prune_environments(self) -> Capability:
        """List, read and remove stored environments, and know how long unused ones are kept."""
        bucket = self._storage.bucket.bucket_arn
        return Capability(
            statements=[
                allow(["s3:GetObject", "s3:DeleteObject"], [f"{bucket}/environments/*"]),
                # Also without it, S3 would answer 403 for an object that does not exist.
                allow(["s3:ListBucket"], [bucket]),
            ],
            variables={
                **self.bucket_name().variables,
                "RUNCTL_ENVIRONMENT_DAYS": str(self._settings.environment_days),
            },
        )

    def bucket_name(self) -> Capability:
        """Build addresses of objects, without access to them."""
        return Capability(variables={"RUNCTL_BUCKET": self._storage.bucket.bucket_name})

    def objects(self) -> Capability:
        """Check that an object exists, in our bucket and those that the context names.

        The ARN of the state machine says in which account a run's policy names objects.
        """
        buckets = [
            self._storage.bucket.bucket_arn,
            *(f"arn:aws:s3:::{name}" for name in self._settings.readable_buckets),
        ]
        return Capability(
            statements=[
                allow(["s3:GetObject"], [f"{bucket}/*" for bucket in buckets]),
                # Without it S3 answers 403 for an object that does not exist.
                allow(["s3:ListBucket"], buckets),
            ],
            variables={
                **self.bucket_name().variables,
                "RUNCTL_STATE_MACHINE_ARN": self._settings.state_machine_arn,
            },
        )

    def prepare_jobs(self) -> Capability:
        """Store the plan of a processing job, reserve its output, and check that of others."""
        bucket = self._storage.bucket.bucket_arn
        # The claim of a job, and the name with which an evaluation tries whether it could write.
        names = ("_run.json", ".runctl")
        plans = f"{bucket}/runs/*/shards/plan.jsonl"
        outputs = [f"{place}*{name}" for place in self._output_places() for name in names]
        return Capability(statements=[allow(["s3:PutObject"], [plans, *outputs])])

    def _output_places(self) -> list[str]:
        """Return what the ARNs of all objects begin with that runs may write for their users."""
        buckets = (f"arn:aws:s3:::{name}/" for name in self._settings.writable_buckets)
        return [f"{self._storage.bucket.bucket_arn}/outputs/", *buckets]

    def finish_jobs(self) -> Capability:
        """Read what the runs of a processing job recorded, and store its index."""
        bucket = self._storage.bucket.bucket_arn
        return Capability(
            statements=[
                allow(["s3:GetObject"], [f"{bucket}/runs/*/shards/*"]),
                allow(
                    ["s3:PutObject"], [f"{place}*_index.jsonl" for place in self._output_places()]
                ),
                # Without it S3 answers 403 for an object that does not exist.
                allow(["s3:ListBucket"], [bucket]),
            ],
            variables=self.bucket_name().variables,
        )

    def group_files(self) -> Capability:
        """Write the results of groups of runs."""
        files = f"{self._storage.bucket.bucket_arn}/groups/*"
        return Capability(
            statements=[allow(["s3:PutObject"], [files])], variables=self.bucket_name().variables
        )

    def group_plots(self) -> Capability:
        """Write the plots of groups of runs."""
        plots = f"{self._storage.bucket.bucket_arn}/groups/*/plots/*"
        return Capability(
            statements=[allow(["s3:PutObject"], [plots])], variables=self.bucket_name().variables
        )

    def find_secrets(self) -> Capability:
        """Know whether a secret exists that runs may read; not its value."""
        listed = list(self._settings.readable_secrets.secrets)
        return Capability(
            statements=[allow(["secretsmanager:DescribeSecret"], listed)] if listed else []
        )

    def notices(self) -> Capability:
        """Publish to our topic; it has no key that would need a permission."""
        topic = self._storage.topic.topic_arn
        return Capability(
            statements=[allow(["sns:Publish"], [topic])], variables={"RUNCTL_TOPIC_ARN": topic}
        )
