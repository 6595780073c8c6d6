"""The verification's decisions, with an account whose answers the tests choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from runctl.control.verification import launches, roles
from runctl.control.verification.installed import Installed
from runctl.control.verification.verify import State, Verification
from runctl.control.verification.workflows import walk_states
from runctl.model.deployed import (
    Denial,
    EncryptionKey,
    PublishedImage,
    Route,
    StackResource,
    StateAnswer,
    StateMachine,
    StateTest,
    Subnet,
    Template,
)
from runctl.model.errors import RefusedError, TransientError
from runctl.model.role_calls import ROLE_CALLS

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
INSTALLED = Installed(
    name="runctl",
    region="us-east-1",
    account="000000000000",
    bucket="bucket",
    table="runctl-ledger",
    log_group="/runctl/trainer",
    topic_arn="arn:aws:sns:us-east-1:000000000000:runctl-events",
    security_group="sg-1",
    dead_letters="https://sqs.us-east-1.amazonaws.com/000000000000/dead",
    command_document="runctl-agent",
    start_document="runctl-start",
    machines={},
    launch_templates={"x86_cpu": "lt-1"},
    gang_templates={},
    subnets={"us-east-1a": "subnet-1"},
)
TEMPLATE = Template(
    template_id="lt-1",
    data={
        "ImageId": "resolve:ssm:/aws/service/image",
        "IamInstanceProfile": {"Arn": "arn:aws:iam::000000000000:instance-profile/p"},
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": True}}],
        "NetworkInterfaces": [{"AssociatePublicIpAddress": True, "Groups": ["sg-1"]}],
    },
)
KEY_ARN = "arn:aws:kms:us-east-1:000000000000:key/12345678-1234-1234-1234-123456789012"
KEY = EncryptionKey(arn=KEY_ARN, state="Enabled", is_of_customer=True)
_SECRET = "arn:aws:secretsmanager:us-east-1:000000000000:secret:"
OWNING = replace(
    INSTALLED,
    readable_buckets=("data",),
    secrets=(f"{_SECRET}hub-??????", f"{_SECRET}team/*"),
    parameters=("arn:aws:ssm:us-east-1:000000000000:parameter/team/token",),
    secret_keys=(KEY_ARN,),
)
DENIAL = {
    "Sid": "Mine",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "arn:aws:s3:::data/*",
}
IMAGE = PublishedImage(image_id="ami-1", state="available", root_device="/dev/sda1", made_at=NOW)


@dataclass
class Account:
    """An account in order; a test replaces an answer, or makes it an error."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[Sequence[str], Sequence[str], Mapping[str, Sequence[str]]]] = field(
        default_factory=list
    )

    def _say(self, name: str, usual: Any) -> Any:
        answer = self.answers.get(name, usual)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def resources(self) -> list[StackResource]:
        made = {"instances": "InstanceRole", "launch_instances": "LaunchInstancesRole"}
        return self._say(
            "resources",
            [
                StackResource(logical_id=f"{name}12345678", physical_id=role, kind="AWS::IAM::Role")
                for role, name in made.items()
            ],
        )

    def denied(self, _role: str, actions: Any, resources: Any, context: Any) -> list[Denial]:
        self.asked.append((actions, resources, context))
        return self._say("denied", [])

    def template(self, _id: str) -> Template:
        return self._say("template", TEMPLATE)

    def resolve_parameter(self, _name: str) -> str | None:
        return self._say("resolve_parameter", "ami-1")

    def image(self, _id: str) -> PublishedImage | None:
        return self._say("image", IMAGE)

    def profile_role(self, _arn: str) -> str | None:
        return self._say("profile_role", "instances")

    def refusal_of_instances(self, *_: Any, **__: Any) -> tuple[str, str] | None:
        return self._say("refusal_of_instances", None)

    def refusal_of_fleet(self, *_: Any, **__: Any) -> tuple[str, str] | None:
        return self._say("refusal_of_fleet", None)

    def running_instance(self, _group: str) -> str | None:
        return self._say("running_instance", "i-1")

    def refusal_of_termination(self, _id: str) -> tuple[str, str] | None:
        return self._say("refusal_of_termination", ("InvalidInstanceID.NotFound", "no"))

    def subnet(self, subnet_id: str) -> Subnet:
        way = Route(destination="0.0.0.0/0", target="igw-1", is_active=True)
        usual = Subnet(subnet_id=subnet_id, routes=(way,), endpoints=frozenset())
        return self._say("subnet", usual)

    def quota(self, _code: str) -> int:
        return self._say("quota", 8)

    def default_key(self) -> str:
        return self._say("default_key", "alias/aws/ebs")

    def has_role(self, _name: str) -> bool:
        return self._say("has_role", True)

    def has_log_group(self, _name: str) -> bool:
        return self._say("has_log_group", True)

    def bucket_region(self, _bucket: str) -> str | None:
        return self._say("bucket_region", "us-east-1")

    def bucket_policy(self, _bucket: str) -> Mapping[str, Any] | None:
        return self._say("bucket_policy", None)

    def secret(self, _name: str) -> str | None:
        return self._say("secret", "")

    def parameter_key(self, _name: str) -> str | None:
        return self._say("parameter_key", "alias/aws/ssm")

    def key(self, _name: str) -> EncryptionKey | None:
        return self._say("key", KEY)

    def public_access(self, _bucket: str) -> list[str]:
        return self._say("public_access", [])

    def state_machine(self, _arn: str) -> StateMachine:
        raise NotImplementedError

    def test_state(self, asked: StateTest) -> StateAnswer:
        raise NotImplementedError(asked)


def failed(account: Account, installed: Installed = INSTALLED) -> dict[str, str]:
    """Verify; return why each check failed, without the list of roles, which lacks most here."""
    results = Verification(account, installed, NOW).run(lambda _: None)
    return {
        result.check: "; ".join(finding.why for finding in result.findings)
        for result in results
        if result.state is State.FAILED and result.name != "list"
    }


def template(**changes: Any) -> Template:
    return replace(TEMPLATE, data={**TEMPLATE.data, **changes})


def test_an_account_in_order_passes():
    assert failed(Account()) == {}


@pytest.mark.parametrize(
    ("answers", "check", "why"),
    [
        ({"template": template(MetadataOptions={})}, "launch templates", "HttpTokens is None"),
        ({"profile_role": "other"}, "launch templates", "has the role other, not instances"),
        ({"profile_role": None}, "launch templates", "has the role none"),
        ({"resolve_parameter": None}, "images", "parameter does not exist"),
        ({"image": None}, "images", "does not exist, or is private"),
        ({"image": replace(IMAGE, state="disabled")}, "images", "ami-1 is disabled"),
        ({"image": replace(IMAGE, root_device="/dev/xvda")}, "images", "root device is /dev/xvda"),
        (
            {"image": replace(IMAGE, deprecated_at=NOW - timedelta(days=1))},
            "images",
            "deprecated since 2025-12-31",
        ),
        ({"image": replace(IMAGE, made_at=NOW - timedelta(days=731))}, "images", "731 days old"),
        ({"refusal_of_instances": ("InvalidSubnet", "no")}, "dry runs", "in subnet-1 of m5.large"),
        ({"refusal_of_fleet": ("InvalidParameter", "no")}, "dry runs", "CreateFleet of m5.large"),
        ({"refusal_of_termination": ("Odd", "no")}, "dry runs", "no (Odd)"),
        ({"quota": 0}, "quotas", "may launch none"),
        ({"default_key": "arn:aws:kms:us-east-1:0:key/k"}, "account", "have no permission"),
        ({"public_access": ["BlockPublicAcls"]}, "storage", "lacks BlockPublicAcls"),
        ({"has_log_group": False}, "logs", "does not exist"),
        (
            {"subnet": Subnet(subnet_id="s", routes=(), endpoints=frozenset({"s3"}))},
            "routes",
            "no route out",
        ),
    ],
)
def test_each_fault_is_a_failure_of_its_check(answers, check, why):
    found = failed(Account(answers))
    assert list(found) == [check]
    assert why in found[check]


def test_what_the_owner_lists_passes_if_it_is_there():
    account = Account()
    assert failed(account, OWNING) == {}
    results = Verification(account, OWNING, NOW).run(lambda _: None)
    own = [found.name for found in results if found.check in {"own buckets", "secrets"}]
    # Of a pattern nothing need exist.
    assert own == ["data", OWNING.secrets[0], OWNING.parameters[0], KEY_ARN]


@pytest.mark.parametrize(
    ("answers", "check", "why"),
    [
        ({"bucket_region": None}, "own buckets", "the bucket does not exist"),
        ({"bucket_region": "eu-west-1"}, "own buckets", "it is in eu-west-1, the deployment in us"),
        (
            {"bucket_policy": {"Statement": [DENIAL]}},
            "own buckets",
            "denies s3:GetObject to prepare_run",
        ),
        ({"secret": None}, "secrets", "the secret does not exist in this region"),
        ({"parameter_key": None}, "secrets", "the parameter does not exist in this region"),
        ({"key": replace(KEY, state="PendingDeletion")}, "secrets", "the key is PendingDeletion"),
        ({"key": None}, "secrets", "the key does not exist in this region"),
        (
            {"secret": "alias/other", "key": replace(KEY, arn="arn:other")},
            "secrets",
            "encrypted with arn:other, which `secret_keys` does not list",
        ),
    ],
)
def test_each_fault_of_what_the_owner_lists_is_named(answers, check, why):
    if "bucket_policy" in answers:
        made = StackResource(
            logical_id="PrepareRunRole12345678", physical_id="prepare", kind="AWS::IAM::Role"
        )
        answers = {**answers, "resources": [*Account().resources(), made]}
    found = failed(Account(answers), OWNING)
    assert list(found) == [check]
    assert why in found[check]


def test_a_key_of_aws_needs_no_permission():
    of_aws = replace(KEY, arn="arn:other", is_of_customer=False)
    keyless = replace(OWNING, secret_keys=())
    assert failed(Account({"secret": "12345678", "key": of_aws}), keyless) == {}


def test_a_policy_that_the_caller_may_not_read_is_unknown():
    made = StackResource(
        logical_id="PrepareRunRole12345678", physical_id="prepare", kind="AWS::IAM::Role"
    )
    refused = {"bucket_policy": RefusedError("s3:GetBucketPolicy"), "resources": [made]}
    results = Verification(Account(refused), OWNING, NOW).run(lambda _: None)
    (found,) = [result for result in results if result.check == "own buckets"]
    assert (found.state, found.problem) == (State.UNKNOWN, "s3:GetBucketPolicy")


def test_the_roles_are_asked_about_what_the_owner_lists():
    account = Account()
    facts = roles.facts_of(OWNING, [], [], "")
    roles.check_role(account, "arn", "sessions of runs", facts, {})
    asked = {
        (action, arn) for actions, arns, _ in account.asked for action in actions for arn in arns
    }
    assert ("s3:GetObject", "arn:aws:s3:::data/verify") in asked
    assert ("secretsmanager:GetSecretValue", f"{_SECRET}hub-aaaaaa") in asked
    assert ("secretsmanager:GetSecretValue", f"{_SECRET}team/verify-aaaaaa") in asked
    assert ("ssm:GetParameter", OWNING.parameters[0]) in asked
    assert ("kms:Decrypt", KEY_ARN) in asked
    assert not any("{" in arn for _, arn in asked)


def test_a_zone_without_the_type_is_no_fault():
    assert failed(Account({"refusal_of_instances": ("Unsupported", "not in this zone")})) == {}


def test_a_default_key_does_not_matter_if_templates_name_one():
    volume = [{"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": True, "KmsKeyId": "alias/aws/ebs"}}]
    answers = {"default_key": "arn:k", "template": template(BlockDeviceMappings=volume)}
    assert failed(Account(answers)) == {}


def test_a_missing_spot_role_matters_only_if_launches_may_not_create_it():
    assert failed(Account({"has_role": False})) == {}
    denial = Denial(action="iam:X", resource="r", decision="implicitDeny", missing=("a:b",))
    found = failed(Account({"has_role": False, "denied": [denial]}))
    assert "launches may not create it" in found["account"]
    assert "iam:X on r (conditions need a:b)" in found["roles"]


def test_only_quotas_of_allowed_types_count():
    def names(*types: str) -> list[str]:
        installed = replace(
            INSTALLED,
            instance_types=types,
            launch_templates={"x86_cpu": "lt-1", "x86_gpu": "lt-2"},
        )
        return [quota.name for quota in launches.quotas_of(installed)]

    assert len(names()) == 6
    assert all("Standard" in name for name in names("m5.*", "c6i.large"))
    assert len(names("g*")) == 6  # not a family: nothing is known about it


@pytest.mark.parametrize("error", [RefusedError("no"), TransientError("busy")])
def test_what_cannot_be_read_is_unknown_and_the_rest_goes_on(error):
    account = Account({"quota": error, "resources": error})
    results = Verification(account, INSTALLED, NOW).run(lambda _: None)
    states = {result.check: result.state for result in results}
    assert states["quotas"] is State.UNKNOWN
    assert states["stacks"] is State.UNKNOWN
    assert states["routes"] is State.PASSED
    assert {result.problem for result in results if result.problem} == {str(error)}


def test_an_unexpected_error_is_a_failure_with_its_name():
    assert failed(Account({"quota": KeyError("x")})) == {"quotas": "KeyError: 'x'"}


def test_every_role_is_asked_for_with_the_tags_of_a_run():
    account = Account()
    failed(account)
    actions = {action for asked, _, _ in account.asked for action in asked}
    assert {"ec2:CreateFleet", "iam:PassRole", "dynamodb:UpdateItem"} <= actions
    assert not any("{" in resource for _, resources, _ in account.asked for resource in resources)
    for _, _, context in account.asked[:-1]:
        assert context["aws:ResourceTag/runctl:deployment"] == ["runctl"]


def test_a_denial_names_the_items_that_a_role_does_not_reach():
    account = Account({"denied": [Denial(action="dynamodb:X", resource="t", decision="d")]})
    facts = roles.facts_of(INSTALLED, [], [], "")
    (finding,) = roles.check_role(account, "arn", "sessions of runs", facts, {})
    assert "dynamodb:X on t with dynamodb:LeadingKeys: " in finding.why
    assert "PrincipalTag" not in finding.why


def test_an_action_that_is_denied_on_many_resources_is_one_line():
    denials = [Denial(action="ec2:X", resource=f"t-{n}", decision="d") for n in range(7)]
    facts = roles.facts_of(INSTALLED, [], [], "")
    (finding,) = roles.check_role(Account({"denied": denials}), "arn", "train", facts, {})
    assert finding.why == "it may not ec2:X on t-0 and 6 more"


def test_roles_that_the_list_or_the_stacks_lack_are_named():
    known = dict.fromkeys(ROLE_CALLS, "x")
    assert roles.check_list(known) == []
    (missing,) = roles.check_list({name: "x" for name in known if name != "train"})
    assert (missing.name, missing.why) == ("train", "the stacks lack this role")
    (extra,) = roles.check_list({**known, "Odd": "x"})
    assert extra.name == "Odd"


STATES = {
    "First": {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": "arn:aws:lambda:us-east-1:0:function:runctl-train"},
        "Retry": [{"ErrorEquals": ["Busy"], "MaxAttempts": 2}],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Bad"}],
        "Next": "Choose",
    },
    "Choose": {"Type": "Choice", "Choices": [{"Condition": "x", "Next": "Good"}], "Default": "Bad"},
    "Good": {"Type": "Succeed"},
    "Bad": {"Type": "Fail", "Error": "Bad"},
}


def machine(**changes: Any) -> StateMachine:
    definition = {"QueryLanguage": "JSONata", "StartAt": "First", "States": {**STATES, **changes}}
    return StateMachine(
        arn="arn:aws:states:us-east-1:0:stateMachine:runctl-train", definition=definition
    )


def answer(test: StateTest) -> StateAnswer:
    """Answer as Step Functions would for these states."""
    state = test.state
    if test.error:
        if test.error[0] == "Busy" and test.tries < 2:
            return StateAnswer(status="RETRIABLE", error="Busy")
        return StateAnswer(status="CAUGHT_ERROR", error=test.error[0], next_state="Bad", output={})
    if state["Type"] == "Fail":
        return StateAnswer(status="FAILED", error="Bad")
    after = {"Task": "Choose", "Choice": "Good"}.get(state["Type"], "")
    return StateAnswer(status="SUCCEEDED", output=test.result, next_state=after)


def why(test: Any, **changes: Any) -> list[str]:
    found = walk_states(machine(**changes), prefix="runctl-", test=test).findings
    return [f"{finding.name}: {finding.why}" for finding in found]


def test_a_way_that_no_result_takes_is_a_finding():
    assert why(answer) == ["runctl-train: Choose: no result leads it to Bad"]


def test_a_state_that_nothing_leads_to_is_a_finding():
    assert "runctl-train: Lost: no execution can reach it" in why(answer, Lost={"Type": "Succeed"})


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (StateAnswer(status="FAILED", error="States.Runtime", cause="x"), "ends as FAILED"),
        (
            StateAnswer(
                status="CAUGHT_ERROR", error="States.QueryEvaluationError", next_state="Bad"
            ),
            "(States.QueryEvaluationError)",
        ),
    ],
)
def test_a_state_that_cannot_evaluate_is_a_finding(said, problem):
    def test(asked: StateTest) -> StateAnswer:
        return said if asked.result is not None else answer(asked)

    (found,) = why(test)
    assert found.startswith("runctl-train: First: after the start: with a mocked result")
    assert problem in found


def test_an_error_that_is_caught_elsewhere_or_not_retried_is_a_finding():
    def astray(asked: StateTest) -> StateAnswer:
        found = answer(asked)
        return (
            replace(found, next_state="Good") if asked.error and asked.error[0] != "Busy" else found
        )

    assert "leads to Good" in why(astray)[0]

    def impatient(asked: StateTest) -> StateAnswer:
        return answer(replace(asked, tries=2))

    assert "with the mocked error Busy it ends as CAUGHT_ERROR, not RETRIABLE" in why(impatient)[0]


def test_a_task_of_which_nothing_is_known_is_a_finding():
    unknown = {**STATES["First"], "Arguments": {"FunctionName": "runctl-other"}}
    assert "does not know what its task returns" in why(answer, First=unknown)[0]
