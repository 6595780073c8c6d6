"""`runctl doctor`: find and remove leftovers, which nothing needs any more."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from runctl import __version__
from runctl.aws.account import AwsAccount
from runctl.cli.exit_codes import REFUSED, RUN_FAILED
from runctl.cli.invocation import Invocation
from runctl.control.doctor import Doctor, examine, fix_findings
from runctl.model.errors import RunctlError
from runctl.policy.environments import take_stock
from runctl.report.environment_list import describe_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.control.doctor import Examination
    from runctl.control.findings import Finding


def doctor(
    invocation: Invocation,
    fix: Annotated[
        bool, typer.Option("--fix", help="Remove what is safe to remove (default: change nothing).")
    ] = False,
) -> None:
    """List leftovers in the account: instances, fleets, volumes and data that nothing needs."""
    output = invocation.output
    checks = _doctor(invocation).checks()
    with output.spinner("examining the account") as update:
        examined: list[Examination] = []
        for check in checks:
            update(f"examining {check.name}")
            examined.append(examine(check))
    if fix:
        for examination in examined:
            for finding in examination.findings:
                if finding.remedy:
                    planned = f"{finding.name}: {finding.remedy} ({finding.why})"
                    output.note(f"{examination.check}: {planned}")
        examined = [
            fix_findings(check, before) for check, before in zip(checks, examined, strict=True)
        ]
    stored, cost = _environments(invocation)
    document = {**_document(examined, fix=fix), "environments": stored}
    page = _page(examined, fix=fix)
    output.result(document, *page, *([cost] if cost else []))
    if any(not finding.is_fixed for examination in examined for finding in examination.findings):
        raise typer.Exit(RUN_FAILED)
    if any(examination.problem for examination in examined):
        raise typer.Exit(REFUSED)


def _environments(invocation: Invocation) -> tuple[dict[str, Any] | None, str]:
    """Return what environments cost, as a document (None if it is not known) and as a line.

    The line is empty if there are none.
    """
    try:
        stock = take_stock(invocation.cloud.environment_catalog.objects())
    except RunctlError as exc:
        return None, f"what environments cost is not known: {exc}"
    count = len(stock.environments)
    document = {
        "count": count,
        "stored_bytes": stock.size_bytes,
        "usd_per_month": round(stock.usd_per_month, 4),
    }
    return document, f"environments: {count}, {describe_cost(stock)}" if stock.size_bytes else ""


def _doctor(invocation: Invocation) -> Doctor:
    cloud = invocation.cloud
    account = AwsAccount(cloud.clients, cloud.deployment)
    deployment = cloud.deployment
    return Doctor(
        cloud,
        account,
        deployed=deployment.version,
        version=__version__,
        is_whole=bool(deployment.security_group and deployment.dead_letters),
    )


def _document(examined: Sequence[Examination], *, fix: bool) -> dict[str, Any]:
    findings = [finding for examination in examined for finding in examination.findings]
    price = _price(findings)
    return {
        "fix": fix,
        "found": len(findings),
        "fixed": sum(finding.is_fixed for finding in findings),
        "usd_per_hour": None if price is None else float(price),
        "checks": [
            {
                "check": examination.check,
                "problem": examination.problem,
                "findings": [_described(finding) for finding in examination.findings],
            }
            for examination in examined
        ],
    }


def _described(finding: Finding) -> dict[str, Any]:
    price = finding.usd_per_hour
    return {
        "name": finding.name,
        "run_id": finding.run_id,
        "why": finding.why,
        "remedy": finding.remedy,
        "advice": finding.advice,
        "usd_per_hour": None if price is None else float(price),
        "fixed": finding.is_fixed,
        "error": finding.error,
    }


def _price(findings: Sequence[Finding]) -> Decimal | None:
    """Return the known cost per hour of what is left; None if nothing is known."""
    known = [
        finding.usd_per_hour
        for finding in findings
        if finding.usd_per_hour is not None and not finding.is_fixed
    ]
    return sum(known, Decimal()) if known else None


def _page(examined: Sequence[Examination], *, fix: bool) -> list[Table | str]:
    findings = [finding for examination in examined for finding in examination.findings]
    page: list[Table | str] = [_table(examined)] if findings else []
    page += [
        f"{examination.check} could not be examined: {examination.problem}"
        for examination in examined
        if examination.problem
    ]
    left = [finding for finding in findings if not finding.is_fixed]
    price = _price(findings)
    if not findings and not page:
        page.append(f"no leftovers ({len(examined)} checks)")
    elif findings:
        counts = f"{len(findings)} found, {len(findings) - len(left)} fixed"
        page.append(
            counts if price is None else f"{counts}; what is left costs ${price:.4f} an hour"
        )
    if not fix and any(finding.remedy for finding in findings):
        page.append("next: `runctl doctor --fix` does what the column `fix` says")
    return page


def _table(examined: Sequence[Examination]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("check", "what", "run", "why", "fix"):
        table.add_column(heading, overflow="fold")
    for examination in examined:
        for finding in examination.findings:
            done = "fixed" if finding.is_fixed else finding.remedy or f"by you: {finding.advice}"
            if finding.error:
                done = f"failed: {finding.error}"
            table.add_row(examination.check, finding.name, finding.run_id, finding.why, done)
    return table
