"""`runctl doctor`: what is orphaned in the account, and with --fix no longer."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from runctl import __version__
from runctl.aws.account import AwsAccount
from runctl.cli.account_services import AccountServices
from runctl.cli.exit_codes import REFUSED, RUN_FAILED
from runctl.cli.invocation import Invocation
from runctl.control.doctor import Doctor, examine, mend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.control.doctor import Examination
    from runctl.control.findings import Finding


def doctor(
    invocation: Invocation,
    fix: Annotated[
        bool, typer.Option("--fix", help="Take away what is safe to; else nothing is changed.")
    ] = False,
) -> None:
    """List what is left in the account that nobody wants: machines, fleets, volumes, data."""
    output = invocation.output
    checks = _doctor(invocation).checks()
    with output.spinner("looking at the account") as tell:
        examined: list[Examination] = []
        for check in checks:
            tell(f"looking at {check.name}")
            examined.append(examine(check))
    if fix:
        for one in examined:
            for finding in one.findings:
                if finding.cure:
                    output.tell(f"{one.check}: {finding.name}: {finding.cure} ({finding.why})")
        examined = [mend(check, one) for check, one in zip(checks, examined, strict=True)]
    output.result(_document(examined, fix=fix), *_page(examined, fix=fix, flag=invocation.flag))
    if any(not finding.is_mended for one in examined for finding in one.findings):
        raise typer.Exit(RUN_FAILED)
    if any(one.problem for one in examined):
        raise typer.Exit(REFUSED)


def _doctor(invocation: Invocation) -> Doctor:
    cloud = invocation.cloud
    services = AccountServices(cloud.clients, cloud.deployment)
    account = AwsAccount(cloud.clients, cloud.deployment, now=services.clock.now)
    deployment = cloud.deployment
    return Doctor(
        services,
        account,
        deployed=deployment.version,
        version=__version__,
        is_whole=bool(deployment.security_group and deployment.dead_letters),
    )


def _document(examined: Sequence[Examination], *, fix: bool) -> dict[str, Any]:
    findings = [finding for one in examined for finding in one.findings]
    price = _price(findings)
    return {
        "fix": fix,
        "found": len(findings),
        "mended": sum(finding.is_mended for finding in findings),
        "usd_per_hour": None if price is None else float(price),
        "checks": [
            {
                "check": one.check,
                "problem": one.problem,
                "findings": [_described(finding) for finding in one.findings],
            }
            for one in examined
        ],
    }


def _described(finding: Finding) -> dict[str, Any]:
    price = finding.usd_per_hour
    return {
        "name": finding.name,
        "run_id": finding.run_id,
        "why": finding.why,
        "cure": finding.cure,
        "advice": finding.advice,
        "usd_per_hour": None if price is None else float(price),
        "mended": finding.is_mended,
        "error": finding.error,
    }


def _price(findings: Sequence[Finding]) -> Decimal | None:
    """Add up what is known of what goes on costing by the hour."""
    known = [
        finding.usd_per_hour
        for finding in findings
        if finding.usd_per_hour is not None and not finding.is_mended
    ]
    return sum(known, Decimal()) if known else None


def _page(examined: Sequence[Examination], *, fix: bool, flag: str) -> list[Table | str]:
    findings = [finding for one in examined for finding in one.findings]
    page: list[Table | str] = [_table(examined)] if findings else []
    page += [
        f"{one.check} could not be looked at: {one.problem}" for one in examined if one.problem
    ]
    left = [finding for finding in findings if not finding.is_mended]
    price = _price(findings)
    if not findings and not page:
        page.append(f"nothing is left over ({len(examined)} checks)")
    elif findings:
        told = f"{len(findings)} found, {len(findings) - len(left)} mended"
        page.append(told if price is None else f"{told}; what is left costs ${price:.4f} an hour")
    if not fix and any(finding.cure for finding in findings):
        page.append(f"next: runctl{flag} doctor --fix does what stands under `fix`")
    return page


def _table(examined: Sequence[Examination]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("check", "what", "run", "why", "fix"):
        table.add_column(heading, overflow="fold")
    for one in examined:
        for finding in one.findings:
            done = "mended" if finding.is_mended else finding.cure or f"by you: {finding.advice}"
            if finding.error:
                done = f"failed: {finding.error}"
            table.add_row(one.check, finding.name, finding.run_id, finding.why, done)
    return table
