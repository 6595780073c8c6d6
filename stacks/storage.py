"""The stack of what outlives runs: bucket, ledger, logs, topic, and the images of runs."""

from __future__ import annotations

from typing import Any

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from stacks.images import Images
from stacks.settings import Settings
from stacks.suppressions import accept


class StorageStack(Stack):
    """Everything that is kept; only the stored data costs anything."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, **stack: Any
    ) -> None:
        super().__init__(scope, construct_id, **stack)
        self.bucket = _bucket(self, settings)
        self.table = _ledger(self, settings)
        self.trainer_logs = logs.LogGroup(
            self,
            "TrainerLogs",
            log_group_name=f"/{settings.name}/trainer",
            retention=logs.RetentionDays.THREE_MONTHS,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.images = Images(
            self, "Images", settings=settings, bucket=self.bucket, log_group=self.trainer_logs
        )
        # Not encrypted with a customer managed key, which would be billed by the month. The AWS
        # managed key for SNS admits no other service as a publisher.
        self.topic = sns.Topic(
            self, "Topic", topic_name=f"{settings.name}-events", enforce_ssl=True
        )


def _bucket(scope: Construct, settings: Settings) -> s3.Bucket:
    bucket = s3.Bucket(
        scope,
        "Bucket",
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        encryption=s3.BucketEncryption.S3_MANAGED,
        enforce_ssl=True,
        versioned=True,
        removal_policy=RemovalPolicy.RETAIN,
        # Never by age: an old part may belong to the newest checkpoint.
        lifecycle_rules=[
            s3.LifecycleRule(
                id="unfinished-uploads", abort_incomplete_multipart_upload_after=Duration.days(2)
            ),
            s3.LifecycleRule(
                id="replaced-objects",
                noncurrent_version_expiration=Duration.days(14),
                expired_object_delete_marker=True,
            ),
            # Deleted objects are billed until this rule removes them. Parts are named by their
            # content, so a version can undo only a deletion. Of two rules, the shorter applies.
            s3.LifecycleRule(
                id="deleted-checkpoints",
                prefix="runs/",
                noncurrent_version_expiration=Duration.days(settings.kept_days),
            ),
            s3.LifecycleRule(
                id="deleted-environments",
                prefix="environments/",
                noncurrent_version_expiration=Duration.days(settings.kept_days),
            ),
        ],
    )
    # What one instance stores below this prefix, the next one executes. So objects there are
    # written once: a request without `If-None-Match` is denied to everybody. That includes
    # multipart uploads, which begin without the header. Instances cannot delete there either.
    bucket.add_to_resource_policy(
        iam.PolicyStatement(
            sid="EnvironmentsAreWrittenOnce",
            effect=iam.Effect.DENY,
            principals=[iam.AnyPrincipal()],
            actions=["s3:PutObject"],
            resources=[bucket.arn_for_objects("environments/*")],
            conditions={"Null": {"s3:if-none-match": "true"}},
        )
    )
    accept(
        bucket,
        {
            "AwsSolutions-S1": "Access logs would need a second bucket that grows with every part "
            "of every checkpoint; only two roles of this app may read the bucket."
        },
    )
    return bucket


def _ledger(scope: Construct, settings: Settings) -> dynamodb.Table:
    table = dynamodb.Table(
        scope,
        "Ledger",
        table_name=f"{settings.name}-ledger",
        partition_key=_key("pk"),
        sort_key=_key("sk"),
        billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        # Its name is fixed, so a retained ledger would block the next deployment. DynamoDB keeps a
        # last backup of a table with point-in-time recovery for 35 days.
        removal_policy=RemovalPolicy.DESTROY,
    )
    table.add_global_secondary_index(
        index_name="runs", partition_key=_key("listed"), sort_key=_key("started_at")
    )
    # Sparse: a run leaves it once its end was announced, so reconciliation reads only active runs.
    table.add_global_secondary_index(
        index_name="unsettled",
        partition_key=_key("unsettled"),
        sort_key=_key("run_id"),
        projection_type=dynamodb.ProjectionType.KEYS_ONLY,
    )
    return table


def _key(name: str) -> dynamodb.Attribute:
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)
