"""`runctl verify`: check that a deployment can do its work in this account."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from runctl.aws.deployed_account import AwsDeployedAccount
from runctl.cli.commands.verify_run import check_before, confirm, run_and_interrupt
from runctl.cli.exit_codes import REFUSED, RUN_FAILED, UNKNOWN
from runctl.cli.invocation import Invocation
from runctl.control.verification.installed import Installed
from runctl.control.verification.verify import State, Verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.aws.deployment import Deployment
    from runctl.cli.commands.verify_run import VerifiedRun
    from runctl.control.verification.verify import Verified

_RESOURCE = re.compile(r" on arn:\S+")


def verify(
    invocation: Invocation,
    run: Annotated[
        bool,
        typer.Option(
            "--run",
            help="If no check fails: run one small job on spot, have AWS FIS interrupt it, follow "
            "it until it is completed, and print what it cost.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --run: do not ask before it starts.")
    ] = False,
) -> None:
    """Check a deployment at no cost: permissions, states, launches, quotas and routes.

    With --run, a small job is run and interrupted as well, which usually costs less than a cent.
    """
    cloud = invocation.cloud
    if run:
        check_before(cloud, yes=yes)
    installed = _installed(cloud.deployment)
    account = AwsDeployedAccount(cloud.clients, installed.name)
    with invocation.output.spinner("verifying the deployment", is_brief=True) as update:
        results = Verification(account, installed, cloud.clock.now()).run(update)
    counts = Counter(result.state for result in results)
    document, page = _document(results, counts), page_of(results, counts)
    proof = None
    if run and counts[State.FAILED]:
        page.append("nothing was run: first fix what has failed")
        document["run"] = None
    elif run and not (yes or confirm(cloud)):
        page.append("nothing was run")
        document["run"] = None
    elif run:
        proof = run_and_interrupt(cloud, invocation.output)
        document["run"] = proof.as_document()
        page += ["", *proof.page()]
    invocation.output.result(document, *page)
    _exit(counts, proof)


def _exit(counts: Counter[State], run: VerifiedRun | None) -> None:
    """Exit with the code of what was found."""
    if run is not None and not run.passed:
        raise typer.Exit(REFUSED if run.was_refused else RUN_FAILED)
    if counts[State.FAILED]:
        raise typer.Exit(RUN_FAILED)
    if not counts[State.PASSED]:
        raise typer.Exit(REFUSED)
    if counts[State.UNKNOWN]:
        raise typer.Exit(UNKNOWN)


def _installed(deployment: Deployment) -> Installed:
    arns = {
        "train": deployment.state_machine_arn,
        "sweep": deployment.sweep_machine_arn,
        "process": deployment.process_machine_arn,
    }
    return Installed(
        name=deployment.name,
        region=deployment.region,
        account=deployment.account,
        bucket=deployment.bucket,
        table=deployment.table,
        log_group=deployment.log_group,
        topic_arn=deployment.topic_arn,
        dead_letters=deployment.dead_letters,
        security_group=deployment.security_group,
        command_document=deployment.command_document,
        start_document=deployment.start_document,
        machines={name: arn for name, arn in arns.items() if arn},
        launch_templates=deployment.launch_templates,
        gang_templates=deployment.gang_templates,
        subnets=deployment.subnets or {},
        instance_types=tuple(deployment.limits.get("instance_types", ())),
        readable_buckets=tuple(deployment.own_data.get("readable_buckets", ())),
        writable_buckets=tuple(deployment.own_data.get("writable_buckets", ())),
        secrets=tuple(deployment.own_data.get("secrets", ())),
        parameters=tuple(deployment.own_data.get("parameters", ())),
        secret_keys=tuple(deployment.own_data.get("secret_keys", ())),
    )


def _document(results: Sequence[Verified], counts: Counter[State]) -> dict[str, Any]:
    return {
        **{state.value: counts[state] for state in State},
        "checks": [
            {
                "check": result.check,
                "name": result.name,
                "state": result.state.value,
                "problem": result.problem,
                "findings": [
                    {"name": finding.name, "why": finding.why, "advice": finding.advice}
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }


def page_of(results: Sequence[Verified], counts: Counter[State]) -> list[Table | str]:
    """Return the table of the results, and their summary below it."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    details = () if counts[State.PASSED] == len(results) else ("why", "remedy")
    for heading in ("check", "result", "what", *details):
        table.add_column(heading, overflow="fold")
    for check in dict.fromkeys(result.check for result in results):
        own = [result for result in results if result.check == check]
        if passed := sum(result.state is State.PASSED for result in own):
            table.add_row(check, State.PASSED.value, f"{passed} of {len(own)}")
        for finding in (finding for result in own for finding in result.findings):
            table.add_row(check, State.FAILED.value, finding.name, finding.why, finding.advice)
        # Those with the same reason together, such as a permission that the caller lacks on each.
        alike: dict[str, list[Verified]] = defaultdict(list)
        for result in own:
            if result.problem:
                alike[_RESOURCE.sub("", result.problem)].append(result)
        for reason, (first, *others) in alike.items():
            if others:
                row = f"{len(others) + 1} of {len(own)}", reason
            else:
                row = first.name, first.problem
            table.add_row(check, State.UNKNOWN.value, *row)
    summary = ", ".join(f"{counts[state]} {state.value}" for state in State)
    return [table, summary]
