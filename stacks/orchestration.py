"""The stack that moves runs: the functions, the state machines, and the events for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from stacks.assets import Asset
from stacks.capabilities import Capabilities
from stacks.capabilities.base import Capability
from stacks.compute import ComputeStack
from stacks.constructs.python_function import PythonFunction, Size
from stacks.constructs.workflow import Workflow
from stacks.deployment_document import describe_deployment
from stacks.fault_injection import fault_injection_role
from stacks.run_roles import RunRoles
from stacks.secret_access import accept_prefixes
from stacks.settings import Settings
from stacks.storage import StorageStack
from stacks.suppressions import accept
from stacks.workflows.definition import RUN

# Delays a replacement: twice the memory means twice the processor and half the cold start.
URGENT = Size(memory_mb=1024, timeout=Duration.seconds(60))
# CreateFleet responds only after it has tried all pools, and there may be two rounds.
LAUNCHING = Size(memory_mb=1024, timeout=Duration.minutes(5))
# Reads and conditional writes, with time for boto3's retries.
PATIENT = Size(memory_mb=512, timeout=Duration.seconds(60))
# It reads a packed project as a whole to find the image that was built from it.
PREPARING = Size(memory_mb=1769, timeout=Duration.minutes(4))
# A run may have left many machines, which are terminated one by one.
THOROUGH = Size(memory_mb=512, timeout=Duration.minutes(3))
# It checks all runs, one by one.
RECONCILING = Size(memory_mb=512, timeout=Duration.minutes(5))

# It imports numpy, and compares up to 1,000 trials.
SAMPLING = Size(memory_mb=1769, timeout=Duration.minutes(2))
# It imports matplotlib. 10,000 trials of 50 hyperparameters took a minute and 300 MB.
PLOTTING = Size(memory_mb=1769, timeout=Duration.minutes(4))

READ = ("GetItem", "Query")
# EC2's warning comes two minutes ahead; an older one contains nothing new.
MAX_WARNING_AGE = Duration.minutes(5)
MAX_CHANGE_AGE = Duration.hours(6)
# A reconciliation that starts after the next one is useless.
RECONCILE_EVERY = Duration.minutes(15)
PRUNE_EVERY = Duration.days(1)
# The state machine's construct has the id Train and keeps it: CloudFormation would replace it.
CONSTRUCT_IDS = {"train": "TrainFunction"}
# An execution keeps the definition that it was started with. Earlier definitions call the function
# `train` by this name, and no run has to fail because its deployment is upgraded.
EARLIER_TRAIN = "start_training"
MAX_DELIVERIES = 30
# The state machines of groups of runs: the definition in stacks/workflows, and the construct's id.
PARENTS: Mapping[str, str] = {"process": "ProcessMachine", "sweep": "SweepMachine"}

# The agent of an instance that is shutting down may still report.
GONE = ["terminated", "stopped"]
OVER = ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]


class OrchestrationStack(Stack):
    """The serverless part; nothing in it runs while no run is active, except reconciliation."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        storage: StorageStack,
        compute: ComputeStack,
        functions: Asset,
        sampler: Asset,
        plotter: Asset,
        **stack: Any,
    ) -> None:
        super().__init__(scope, construct_id, **stack)
        self._settings = settings
        self._code = lambda_.Code.from_asset(str(functions.path))
        self._sampler_code = lambda_.Code.from_asset(str(sampler.path))
        self._plotter_code = lambda_.Code.from_asset(str(plotter.path))
        self._dead_letters = _dead_letters(self)
        self.functions: dict[str, PythonFunction] = {}
        can = Capabilities(self, settings=settings, storage=storage, compute=compute)
        self._add_functions(can, storage)
        self.workflows = {RUN: self._run_workflow(storage)}
        for definition in PARENTS:
            self.workflows[definition] = self._parent_workflow(definition)
        self._add_rules()
        self._publish_deployment(storage, compute)
        run_machine = self.workflows[RUN].state_machine
        CfnOutput(self, "StateMachineArn", value=run_machine.state_machine_arn)

    def _run_workflow(self, storage: StorageStack) -> Workflow:
        """Create the state machine of a run, which may continue a run in another execution."""
        return Workflow(
            self,
            "Train",
            name=self._settings.machine_name(RUN),
            arn=self._settings.state_machine_arn,
            steps=self._steps(),
            starts=[self._settings.state_machine_arn],
            earlier_steps=[self.functions[EARLIER_TRAIN].function],
            builds=list(storage.images.projects.values()),
        )

    def _parent_workflow(self, definition: str) -> Workflow:
        """Create the state machine of a group, which runs the group's members.

        The definition names the state machine of runs `${run_machine}`.
        """
        return Workflow(
            self,
            PARENTS[definition],
            name=self._settings.machine_name(definition),
            arn=self._settings.machine_arn(definition),
            definition=definition,
            steps=self._steps(),
            starts=[self._settings.state_machine_arn],
            values={"run_machine": self._settings.state_machine_arn},
        )

    def _steps(self) -> dict[str, lambda_.IFunction]:
        return {name: step.function for name, step in self.functions.items()}

    # Longer than other functions: a table of the functions and what each may do, read as a whole.
    def _add_functions(self, can: Capabilities, storage: StorageStack) -> None:
        launch = [
            can.ledger(*READ, *_LAUNCH_WRITES),
            can.launch(),
            can.quotas(),
            can.end_machines(),
            can.reports(),
        ]
        end = [
            can.ledger(*READ, "UpdateItem"),
            can.end_machines(),
            can.bucket_name(),
            can.notices(),
        ]
        self._add(
            "prepare_run",
            PREPARING,
            can.ledger(*READ, "PutItem", "UpdateItem"),
            can.objects(),
            can.prepare_jobs(),
            can.machine_images(),
            can.limits(),
            can.find_images(),
            can.find_secrets(),
            can.order_builds(),
            can.root_volumes(),
            can.executions(),
            can.end_machines(),
            can.instance_types(),
        )
        accept_prefixes(self.functions["prepare_run"].role, self._settings)
        self._add(
            "record_image",
            PATIENT,
            can.ledger(*READ, "UpdateItem"),
            can.find_images(),
            can.read_builds(),
        )
        self._add("launch_instances", LAUNCHING, *launch, can.start_agents())
        store_token = can.ledger(*READ, "UpdateItem"), can.reports()
        self._add("train", URGENT, *store_token)
        self._add(EARLIER_TRAIN, URGENT, *store_token, module="train")
        self._add(
            "confirm_checkpoint",
            PATIENT,
            can.ledger(*READ, "UpdateItem"),
            can.end_machines(),
            can.machine_statuses(),
        )
        self._add("decide_next", PATIENT, can.ledger(*READ), can.executions())
        self._add("finish_run", THOROUGH, *end)
        self._add_sweep_functions(can)
        self._add_processing_functions(can)
        self._add_credentials_function(can, storage)
        self._add(
            "handle_interruption",
            LAUNCHING,
            *launch,
            can.commands(),
            oldest_event=MAX_WARNING_AGE,
        )
        self._add(
            "handle_instance_change",
            URGENT,
            can.ledger(*READ, "UpdateItem"),
            can.machines(),
            can.reports(),
            oldest_event=MAX_CHANGE_AGE,
        )
        self._add(
            "clean_up",
            THOROUGH,
            *end,
            can.commands(),
            can.stop_executions(),
            can.list_unsettled_runs(),
            oldest_event=MAX_CHANGE_AGE,
        )
        self._add(
            "reconcile",
            RECONCILING,
            *end,
            can.commands(),
            can.executions(*PARENTS),
            can.stop_executions(),
            can.list_unsettled_runs(),
            can.all_machines(),
            can.machine_statuses(),
            can.reports(),
            can.delete_fleets(),
            can.end_lendings(),
            can.delete_images(),
            oldest_event=RECONCILE_EVERY,
        )
        self._add(
            "prune_environments",
            RECONCILING,
            can.list_unsettled_runs(),
            can.prune_environments(),
            oldest_event=MAX_CHANGE_AGE,
        )

    def _add_sweep_functions(self, can: Capabilities) -> None:
        write = can.ledger(*READ, "UpdateItem")
        self._add(
            "prepare_sweep",
            PREPARING,
            can.ledger(*READ, "PutItem", "UpdateItem"),
            can.objects(),
            can.machine_images(),
            can.limits(),
            can.deployment_name(),
            can.executions("sweep"),
        )
        self._add("suggest_trial", SAMPLING, write, code=self._sampler_code)
        self._add("ask_trial", PATIENT, write, can.judge_function())
        self._add("record_trial", PATIENT, write, can.executions())
        self._add("judge_trial", PATIENT, write, can.know_own_instances())
        self._add(
            "finish_sweep",
            THOROUGH,
            write,
            can.executions(),
            can.group_files(),
            can.list_unsettled_runs(),
            can.stop_executions(),
            can.notices(),
        )
        self._add(
            "plot_sweep",
            PLOTTING,
            can.ledger(*READ),
            can.group_plots(),
            code=self._plotter_code,
        )

    def _add_credentials_function(self, can: Capabilities, storage: StorageStack) -> None:
        name = "issue_credentials"
        self._add(
            name,
            # A machine that boots waits for it.
            URGENT,
            can.ledger(*READ),
            can.bucket_name(),
            can.identify_instances(),
        )
        function = self.functions[name]
        roles = RunRoles(
            self, "RunRoles", settings=self._settings, storage=storage, issuer=function.role
        )
        function.add(roles.sessions())

    def _add_processing_functions(self, can: Capabilities) -> None:
        self._add(
            "plan_shards",
            PREPARING,
            can.ledger(*READ, "PutItem", "UpdateItem"),
            can.objects(),
            can.prepare_jobs(),
            can.machine_images(),
            can.limits(),
            can.machines(),
        )
        self._add(
            "finish_processing",
            PREPARING,
            can.ledger(*READ, "UpdateItem"),
            can.finish_jobs(),
            can.list_unsettled_runs(),
            can.stop_executions(),
            can.notices(),
        )

    def _add(
        self,
        name: str,
        size: Size,
        *capabilities: Capability,
        module: str = "",
        code: lambda_.Code | None = None,
        oldest_event: Duration | None = None,
    ) -> None:
        self.functions[name] = PythonFunction(
            self,
            CONSTRUCT_IDS.get(name, "".join(word.title() for word in name.split("_"))),
            name=name,
            prefix=self._settings.name,
            code=code or self._code,
            size=size,
            module=module,
            capabilities=capabilities,
            dead_letters=None if oldest_event is None else self._dead_letters,
            oldest_event=oldest_event,
        )

    def _add_rules(self) -> None:
        # EventBridge cannot see tags: these events cover every instance of the account.
        self._add_rule(
            "Interruptions",
            "handle_interruption",
            oldest=MAX_WARNING_AGE,
            pattern=_pattern(
                "aws.ec2",
                "EC2 Spot Instance Interruption Warning",
                "EC2 Capacity Reservation Instance Interruption Warning",
                "EC2 Interruptible Capacity Reservation Instance Interruption Warning",
                "EC2 Instance Rebalance Recommendation",
            ),
        )
        self._add_rule(
            "InstanceChanges",
            "handle_instance_change",
            oldest=MAX_CHANGE_AGE,
            pattern=_pattern(
                "aws.ec2", "EC2 Instance State-change Notification", detail={"state": GONE}
            ),
        )
        self._add_rule(
            "ExecutionsOver",
            "clean_up",
            oldest=MAX_CHANGE_AGE,
            pattern=_pattern(
                "aws.states",
                "Step Functions Execution Status Change",
                detail={"stateMachineArn": list(self._machine_arns().values()), "status": OVER},
            ),
        )
        # Billed by the call, even when no run is active: about a second of a small function.
        self._add_rule(
            "Reconciliations",
            "reconcile",
            oldest=RECONCILE_EVERY,
            schedule=events.Schedule.rate(RECONCILE_EVERY),
        )
        self._add_rule(
            "Prunes",
            "prune_environments",
            oldest=MAX_CHANGE_AGE,
            schedule=events.Schedule.rate(PRUNE_EVERY),
        )

    def _machine_arns(self, definitions: Iterable[str] = (RUN, *PARENTS)) -> dict[str, str]:
        return {name: self._settings.machine_arn(name) for name in definitions}

    def _add_rule(
        self,
        construct_id: str,
        function: str,
        *,
        oldest: Duration,
        pattern: events.EventPattern | None = None,
        schedule: events.Schedule | None = None,
    ) -> None:
        events.Rule(
            self,
            construct_id,
            event_pattern=pattern,
            schedule=schedule,
            targets=[
                targets.LambdaFunction(
                    self.functions[function].function,
                    dead_letter_queue=self._dead_letters,
                    max_event_age=oldest,
                    retry_attempts=MAX_DELIVERIES,
                )
            ],
        )

    def _publish_deployment(self, storage: StorageStack, compute: ComputeStack) -> None:
        """Create the parameter that describes the deployment to the command line."""
        settings = self._settings
        document = {
            **describe_deployment(settings, storage, compute),
            **{f"{name}_machine_arn": arn for name, arn in self._machine_arns(PARENTS).items()},
            "dead_letters": self._dead_letters.queue_url,
            "fault_injection_role": fault_injection_role(self, settings).role_arn,
        }
        ssm.StringParameter(
            self,
            "Deployment",
            parameter_name=f"/{settings.name}/deployment",
            description="Where the parts of this deployment of runctl are",
            string_value=self.to_json_string(document),
        )


# The fleet's request, its machines, and the pools that refused it. Only the version before this one
# uses ConditionCheckItem: its code runs for a moment with this policy while it is upgraded.
_LAUNCH_WRITES = ("BatchGetItem", "ConditionCheckItem", "PutItem", "UpdateItem")


def _pattern(
    source: str, *kinds: str, detail: Mapping[str, list[str]] | None = None
) -> events.EventPattern:
    return events.EventPattern(source=[source], detail_type=list(kinds), detail=detail)


def _dead_letters(scope: Construct) -> sqs.Queue:
    queue = sqs.Queue(
        scope,
        "DeadLetters",
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=Duration.days(14),
    )
    accept(
        queue,
        {"AwsSolutions-SQS3": "This is the dead-letter queue itself."},
    )
    return queue
