"""A deployment on a moto server: its resources, and the steps of its runs."""

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import requests

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import Clients, Connection
from runctl.aws.ledger import DynamoLedger
from runctl.aws.workflow import StepFunctions
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.identity import log_stream
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.request_parsing import parse_request
from runctl.model.run import Launched, Run
from tests.attempts import report

REGION, ACCOUNT = "us-east-1", "123456789012"
BUCKET, TABLE, GROUP = "runctl-bucket", "runctl-ledger", "/runctl/trainer"
WEIGHTS = bytes(1_500_000)
POOL = "m5.large/us-east-1a/spot"
# As the stack of storage has it.
WRITTEN_ONCE = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{BUCKET}/environments/*",
            "Condition": {"Null": {"s3:if-none-match": "true"}},
        }
    ],
}
REQUEST = {"script": "train.py", "code": f"s3://{BUCKET}/code/0.tar.gz", "args": ["--epochs", "3"]}


@dataclass
class Deployed:
    """Acts for the state machine and the agent."""

    url: str
    clients: Clients = field(init=False)

    def __post_init__(self) -> None:
        self.clients = Clients(
            Connection(region=REGION, endpoint_url=self.url, access_key="t", secret_key="t")
        )
        self.ledger = DynamoLedger(self.clients.get("dynamodb"), TABLE)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that select this deployment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "t",
            "AWS_SECRET_ACCESS_KEY": "t",
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def deploy_anew(self) -> "Deployed":
        """Deploy to a server from which everything else is removed."""
        requests.post(f"{self.url}/moto-api/reset", timeout=10)
        return self.deploy()

    def deploy(self) -> "Deployed":
        get = self.clients.get
        get("s3").create_bucket(Bucket=BUCKET)
        keys = ("pk", "sk", "listed", "started_at", "unsettled", "run_id")
        get("dynamodb").create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[_key("pk", "HASH"), _key("sk", "RANGE")],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "runs",
                    "KeySchema": [_key("listed", "HASH"), _key("started_at", "RANGE")],
                    "Projection": {"ProjectionType": "ALL"},
                },
                {
                    "IndexName": "unsettled",
                    "KeySchema": [_key("unsettled", "HASH"), _key("run_id", "RANGE")],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                },
            ],
        )
        get("logs").create_log_group(logGroupName=GROUP)
        arn = get("stepfunctions").create_state_machine(
            name="runctl-train",
            definition='{"StartAt": "Only", "States": {"Only": {"Type": "Pass", "End": true}}}',
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/machine",
        )["stateMachineArn"]
        self.put_parameter(
            version="0.1.0", region=REGION, account=ACCOUNT, bucket=BUCKET, table=TABLE,
            state_machine_arn=arn, sweep_machine_arn=arn.replace("-train", "-sweep"),
            log_group=GROUP, topic_arn="", command_document="runctl-agent",
            launch_templates={}, zones=["us-east-1a"],
        )  # fmt: skip
        return self

    def protect_environments(self) -> None:
        """Give the bucket its policy; moto denies every write then, whatever its headers."""
        policy = json.dumps(WRITTEN_ONCE)
        self.clients.get("s3").put_bucket_policy(Bucket=BUCKET, Policy=policy)

    def put_parameter(self, **values: object) -> None:
        self.clients.get("ssm").put_parameter(
            Name="/runctl/deployment", Type="String", Value=json.dumps(values), Overwrite=True
        )

    @property
    def workflow(self) -> StepFunctions:
        (machine,) = self.clients.get("stepfunctions").list_state_machines()["stateMachines"]
        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=machine["stateMachineArn"]
        )

    def executions(self) -> list[str]:
        get = self.clients.get("stepfunctions")
        (machine,) = get.list_state_machines()["stateMachines"]
        found = get.list_executions(stateMachineArn=machine["stateMachineArn"])["executions"]
        return sorted(instance["name"] for instance in found)

    def objects(self) -> list[str]:
        found = self.clients.get("s3").list_objects_v2(Bucket=BUCKET)
        return [entry["Key"] for entry in found.get("Contents", ())]

    def put_data(self, *uris: str) -> None:
        """Put an object at each s3:// URI, and below each prefix."""
        client = self.clients.get("s3")
        for uri in uris:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            client.create_bucket(Bucket=bucket)
            key = f"{key}part-0" if key.endswith("/") or not key else key
            client.put_object(Bucket=bucket, Key=key, Body=b"data")

    # The steps of the functions.

    def begin(self, run_id: str, *, at: datetime | None = None, **request: object) -> Run:
        """Prepare a run as PrepareRun does; starts its execution unless a command did."""
        arn = self.workflow.execution_arn(run_id)
        if self.workflow.find_execution(arn) is None:
            self.workflow.start_run(run_id, {**REQUEST, **request})
        return self.ledger.create_run(
            Run(
                run_id=run_id,
                request=parse_request({**REQUEST, **request}),
                started_at=at or now(),
                execution=run_id,
                execution_arn=arn,
            )
        )

    def train(
        self, run_id: str, number: int, *, pool: str = POOL, since: int = 0, nodes: int = 1
    ) -> None:
        """Launch an attempt and give it its token, `since` seconds ago."""
        at = now() - timedelta(seconds=since)
        run = self.ledger.find_run(run_id)
        self.ledger.open_attempt(
            run_id, number, launch_try=1, source=Launched("{}"), count=nodes, now=at
        )
        instance_ids = [f"i-{number + 16 * rank:017x}" for rank in range(nodes)]
        self.ledger.record_launch(run_id, number, instance_ids=instance_ids, pool=pool, now=at)
        self.ledger.record_token(
            run_id, number, token="secret-token", execution_arn=run.execution_arn, now=at
        )

    def progress(
        self, run_id: str, number: int, step: int, *, start: int | None = None, **progress: object
    ) -> None:
        report(
            self.ledger,
            run_id, number, phase="train", now=now(), step=step, resume_step=start,
            metrics={"loss": 1 / (step + 1), "step": step}, timeline={"started": now()}, **progress,
        )  # fmt: skip

    def commit(self, run_id: str, number: int, step: int) -> str:
        store = CheckpointStore(self.clients.get("s3"), bucket=BUCKET, run_id=run_id)
        part = Part(sha256=hashlib.sha256(WEIGHTS).hexdigest(), size_bytes=len(WEIGHTS))
        manifest = Manifest(
            run_id=run_id,
            step=step,
            save=step,
            attempt=number,
            taken_at=now().isoformat(),
            entries=(
                Entry(
                    path="a.pt",
                    kind="file",
                    mode=0o644,
                    mtime_ns=0,
                    size_bytes=len(WEIGHTS),
                    parts=(part,),
                ),
            ),
        )
        store.put_part(part, [WEIGHTS])
        key = store.put_manifest(manifest)
        self.ledger.commit_checkpoint(
            run_id, number, step=step, save=step, manifest=key, progressed=True, now=now()
        )
        return key

    def say(self, run_id: str, number: int, *lines: str, suffix: str = "", rank: int = 0) -> None:
        logs = self.clients.get("logs")
        stream = log_stream(run_id, number, rank) + suffix
        with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        at = int(now().timestamp() * 1000)
        events = [{"timestamp": at, "message": line} for line in lines]
        logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)

    def notice(self, run_id: str, number: int) -> None:
        self.ledger.record_notice(NodeId(run_id, number, 0), now=now())

    def end_attempt(self, run_id: str, number: int, kind: OutcomeKind, reason: str = "") -> None:
        run = self.ledger.find_run(run_id)
        self.ledger.end_attempt(
            run_id, number, outcome=Outcome(kind=kind, reason=reason, step=run.step), now=now()
        )

    def end(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        self.ledger.end_run(run_id, status=status, reason=reason, now=now())


def _key(name: str, kind: str) -> dict[str, str]:
    return {"AttributeName": name, "KeyType": kind}


def now() -> datetime:
    return datetime.now(timezone.utc)
