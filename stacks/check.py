"""The check of the infrastructure without a deployment: `python -m stacks.check`."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from app import compose
from stacks.orchestration import PARENTS
from stacks.settings import PROJECT
from stacks.workflows.definition import definition_names, read_definition, rendered


@dataclass(frozen=True)
class Finding:
    """A violation of a rule, and its place."""

    rule: str
    where: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.where}"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Accepted findings: rule and place as patterns, and the reason.

    They cover wildcards in policies, for which there is one finding per resource and role. Findings
    about a single resource are accepted next to it.
    """

    rule: str
    where: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether it applies to a finding."""
        return bool(
            re.fullmatch(rf"AwsSolutions-IAM5\[Resource::{self.rule}\]", finding.rule)
            and re.fullmatch(rf".*/{self.where}(/DefaultPolicy)?/Resource", finding.where)
        )


_LAUNCHERS = "(LaunchInstances|HandleInterruption)/Role"
_ENDERS = (
    "(PrepareRun|LaunchInstances|ConfirmCheckpoint|FinishRun|HandleInterruption|CleanUp|Reconcile)"
    "/Role"
)
_MACHINES = "(Train|SweepMachine|ProcessMachine)"

ACCEPTED: Sequence[Accepted] = (
    Accepted(
        rule=r"\*",
        where="Instance(Role|Policy)",
        reason="The SSM agent's own calls: ssmmessages and ec2messages have no resource types, and "
        "the id of an instance is not known before it exists.",
    ),
    Accepted(
        rule=r"\*",
        where=f"({_ENDERS}|(HandleInstanceChange|PrepareSweep|PlanShards)/Role)",
        reason="ec2:DescribeInstances, ec2:DescribeInstanceTypes, ssm:GetCommandInvocation and "
        "the reads of Service Quotas have no resource types.",
    ),
    Accepted(
        rule=r"(\*|arn:aws:iam::\d+:instance-profile/\*)",
        where="IssueCredentials/Role",
        reason="ec2:DescribeInstances has no resource types, and existing instances have profiles "
        "of any name.",
    ),
    Accepted(
        rule=r"(.*Bucket.*Arn|arn:aws:logs)[^*]*/\*",
        where="RunRoles/RunRole",
        reason="Each session has its own policy, and tags that limit what it writes to one run.",
    ),
    Accepted(
        rule=r"\*",
        where="(Images/Role|RunRoles/RunRole)",
        reason="ecr:GetAuthorizationToken has no resource types.",
    ),
    Accepted(
        rule=r"arn:aws:ecr:[^:]+:\*:repository/\*",
        where="(RunRoles/RunRole|Images/Role|(PrepareRun|RecordImage)/Role)",
        reason="A request names any image; only reading, and where the repository's policy permits "
        "it.",
    ),
    Accepted(
        rule=r".*Bucket.*Arn[^/]*/code/\*",
        where="Images/Role",
        reason="Projects of runs; their names are digests that are not known at deploy time.",
    ),
    Accepted(
        rule=r"\*",
        where=f"{_MACHINES}/Role",
        reason="Log delivery: the vended-logs actions have no resource types.",
    ),
    Accepted(
        rule=r"arn:aws:ec2:[^:]+:\d+:instance/\*",
        where=f"({_ENDERS}|HandleInstanceChange/Role)",
        reason="An instance's id is not known before it exists; a condition requires our tag.",
    ),
    Accepted(
        rule=r"arn:aws:ec2:[^:]+:\d+:(fleet|network-interface|spot-instances-request|volume)/\*",
        where=_LAUNCHERS,
        reason="A launch creates these, so their ids are not known before it.",
    ),
    Accepted(
        rule=r"arn:aws:ec2:[^:]+:\d+:fleet/\*",
        where="Reconcile/Role",
        reason="Each launch creates a fleet; a condition requires our tag.",
    ),
    Accepted(
        rule=r"arn:aws:ec2:[^:]+::(image|snapshot)/\*",
        where=_LAUNCHERS,
        reason="EC2 looks up the newest image at each launch; the templates say which one.",
    ),
    Accepted(
        rule=r".*Bucket.*Arn[^/]*/(outputs/\*[._a-z]+|runs/\*/shards/(\*|plan\.jsonl))",
        where="(PrepareRun|PlanShards|FinishProcessing)/Role",
        reason="Plans and outputs of processing jobs, whose names are not known at deploy time.",
    ),
    Accepted(
        rule=r".*Bucket.*Arn[^/]*/environments/\*",
        where="PruneEnvironments/Role",
        reason="Keys below one prefix; what is stored there is not known at deploy time.",
    ),
    Accepted(
        rule=r".*Bucket.*Arn[^/]*/runs/\*(/outputs/\*)?",
        where="RunRoles/TrainerRole",
        reason="Each session has its own policy, for one run.",
    ),
    Accepted(
        rule=r".*Bucket.*Arn[^/]*/\*",
        where="(PrepareRun|PrepareSweep|PlanShards)/Role",
        reason="A request may name any object of the bucket; the role can read nothing else.",
    ),
    Accepted(
        rule=r"arn:aws:logs:.*:log-stream:\*",
        where="(Images/Role|RecordImage/Role)",
        reason="One stream for each node of each attempt and for each build, in one log group.",
    ),
    Accepted(
        rule=r"arn:aws:states:.*:execution:[a-z0-9-]+-train:\*",
        where=f"(PrepareRun|DecideNext|CleanUp|Reconcile|PrepareSweep|RecordTrial|FinishSweep|FinishProcessing|"
        f"{_MACHINES})/Role",
        reason="Any execution of the state machine may belong to a run.",
    ),
)

# The state machines of groups, where there are any.
if PARENTS:
    ACCEPTED = (
        *ACCEPTED,
        Accepted(
            rule=r"arn:aws:states:.*:execution:[a-z0-9-]+-(sweep|process)(/\w+)?:\*",
            where="(SweepMachine|ProcessMachine|PrepareSweep|Reconcile)/Role",
            reason="Children of a Distributed Map have names that Step Functions chooses.",
        ),
        Accepted(
            rule=r".*Bucket.*Arn[^/]*/groups/\*(/plots/\*)?",
            where="(FinishSweep|PlotSweep)/Role",
            reason="Keys below one prefix; the name of a group is not known at deploy time.",
        ),
    )

# cfn-lint's warnings that the CDK or this design causes.
CFN_LINT_ACCEPTED = {
    "E3601": "it accepts HeartbeatSeconds only as a number; asl-validator checks the definition",
    "W3005": "the CDK writes a DependsOn in addition to the reference that implies it",
    "W3010": "a subnet in each zone by name: templates that choose see only two zones",
}


def synthesize(outdir: Path, *, context: dict[str, Any] | None = None) -> list[Finding]:
    """Synthesize the app into `outdir` with every rule enabled; return the findings."""
    known = json.loads((PROJECT / "cdk.json").read_text())["context"]
    app = App(
        outdir=str(outdir),
        context={**known, "@aws-cdk/core:validateAgainstDefaultRules": True, **(context or {})},
        analytics_reporting=False,
    )
    compose(app)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    # The CDK prints every finding, including accepted ones; the report contains them as well.
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            app.synth()
    except RuntimeError as exc:
        if "ValidationFailed" not in str(exc):
            sys.stderr.write(printed.getvalue())
            raise
    report = json.loads((outdir / "validation-report.json").read_text())
    return [
        Finding(violation["ruleName"], place["constructPath"])
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        for place in violation["violatingConstructs"]
    ]


def open_findings(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield findings that are not accepted, and acceptances that match no finding."""
    for finding in findings:
        if not any(accepted.covers(finding) for accepted in ACCEPTED):
            yield str(finding)
    for accepted in ACCEPTED:
        if not any(accepted.covers(finding) for finding in findings):
            yield f"unused acceptance: {accepted.rule} at {accepted.where}"


def lint_templates(outdir: Path) -> str:
    """Return the output of cfn-lint for the templates; empty if it accepts them."""
    cfn_lint = str(Path(sys.executable).with_name("cfn-lint"))
    command = [cfn_lint, "--ignore-checks", *CFN_LINT_ACCEPTED, "--"]
    templates = sorted(str(path) for path in outdir.glob("*.template.json"))
    return _output([*command, *templates])


def validate_workflows() -> str:
    """Return the output of asl-validator for the definitions, with placeholders filled in."""
    validator = PROJECT / "node_modules/.bin/asl-validator"
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in definition_names():
            path = Path(folder, f"{name}.asl.json")
            path.write_text(rendered(read_definition(name), _any_arn))
            paths += ["--json-path", str(path)]
        return _output([str(validator), *paths])


def _any_arn(name: str) -> str:
    return f"arn:aws:lambda:us-east-1:000000000000:function:{name}"


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def main() -> int:
    """Run every check and print the problems; return 0 if there are none."""
    with tempfile.TemporaryDirectory() as folder:
        outdir = Path(folder)
        problems = list(open_findings(synthesize(outdir)))
        problems += filter(None, [lint_templates(outdir), validate_workflows()])
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
