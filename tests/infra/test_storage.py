"""Storage is private, encrypted and recoverable, and nothing is removed because of its age."""

from tests.infra.templates import Synthesized


def test_the_bucket_is_private_versioned_and_encrypted(app: Synthesized) -> None:
    bucket = app.one("AWS::S3::Bucket").properties
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (encryption,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_the_bucket_refuses_requests_without_tls(app: Synthesized) -> None:
    (policy,) = app.of_type("AWS::S3::BucketPolicy")
    denied = [
        statement
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    ]
    assert denied[0]["Action"] == "s3:*"
    assert denied[0]["Principal"] == {"AWS": "*"}


def test_environments_are_written_once(app: Synthesized) -> None:
    (policy,) = app.of_type("AWS::S3::BucketPolicy")
    (denied,) = [
        statement
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement["Action"] == "s3:PutObject"
    ]
    assert (denied["Effect"], denied["Principal"]) == ("Deny", {"AWS": "*"})
    assert denied["Condition"] == {"Null": {"s3:if-none-match": "true"}}
    assert denied["Resource"].endswith("/environments/*")


def test_the_bucket_outlives_the_stack(app: Synthesized) -> None:
    bucket = app.one("AWS::S3::Bucket").attributes
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_no_lifecycle_rule_removes_a_current_object(app: Synthesized) -> None:
    rules = app.one("AWS::S3::Bucket").properties["LifecycleConfiguration"]["Rules"]
    allowed = {
        "AbortIncompleteMultipartUpload",
        "ExpiredObjectDeleteMarker",
        "Id",
        "NoncurrentVersionExpiration",
        "Prefix",
        "Status",
    }
    assert {name for rule in rules for name in rule} == allowed


def test_the_ledger_is_on_demand_and_recoverable(app: Synthesized) -> None:
    table = app.one("AWS::DynamoDB::Table").properties
    assert table["TableName"] == "runctl-ledger"
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    keys = {
        index["IndexName"]: [key["AttributeName"] for key in index["KeySchema"]]
        for index in table["GlobalSecondaryIndexes"]
    }
    assert keys == {"runs": ["listed", "started_at"], "unsettled": ["unsettled", "run_id"]}
    every, sparse = (index["Projection"] for index in table["GlobalSecondaryIndexes"])
    assert (every, sparse) == ({"ProjectionType": "ALL"}, {"ProjectionType": "KEYS_ONLY"})


def test_every_log_has_a_retention_period(app: Synthesized) -> None:
    groups = app.of_type("AWS::Logs::LogGroup")
    writers = app.of_type("AWS::Lambda::Function") + app.of_type("AWS::StepFunctions::StateMachine")
    # The log of trainers, agents and builds is the deployment's own.
    assert len(groups) == len(writers) + 1
    assert all(group.properties["RetentionInDays"] in {30, 90} for group in groups)


def test_deleted_checkpoints_are_billed_for_a_day_and_other_objects_for_two_weeks(
    app: Synthesized,
) -> None:
    rules = app.one("AWS::S3::Bucket").properties["LifecycleConfiguration"]["Rules"]
    kept = {
        rule.get("Prefix", ""): rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
        for rule in rules
        if "NoncurrentVersionExpiration" in rule
    }
    assert kept == {"": 14, "runs/": 1, "environments/": 1}
