"""Findings of the doctor's checks, their remedies, and what the checks read of an account."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from runctl.model.checkpoint import Manifest
from runctl.model.errors import RunctlError
from runctl.model.leftovers import Disk, UnfinishedUpload
from runctl.policy.garbage import StoredPart


class Parts(Protocol):
    """The checkpoint store of a run, as far as the doctor needs it."""

    def parts(self) -> Iterator[StoredPart]:
        """Yield every part of the run that is stored, with its age."""
        ...

    def manifest_keys(self) -> list[str]:
        """Return the keys of all manifests."""
        ...

    def get_manifest(self, key: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError when it is missing or cannot be read."""
        ...

    def delete_parts(self, digests: Iterable[str]) -> None:
        """Remove parts that no manifest needs."""
        ...


class Account(Protocol):
    """The parts of an account that the doctor reads in addition to runs and their machines."""

    def disks(self) -> list[Disk]:
        """Return the volumes that carry a run's tag."""
        ...

    def delete_disk(self, volume_id: str) -> None:
        """Delete a volume, which may already be gone; an attached volume is refused."""
        ...

    def uploads(self) -> list[UnfinishedUpload]:
        """Return the multipart uploads to the deployment's bucket that are incomplete."""
        ...

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Abort a multipart upload, which may already be gone, and drop its parts."""
        ...

    def refuses_to_overwrite(self, prefix: str) -> bool:
        """Whether the bucket's policy denies writes below a prefix that do not demand a new key."""
        ...

    def stored_runs(self) -> list[str]:
        """Return the names of the runs of which the bucket contains anything."""
        ...

    def checkpoints(self, run_id: str) -> Parts:
        """Return the checkpoint store of a run."""
        ...

    def dead_letters(self) -> int | None:
        """Count the events that no function could handle; None if their queue is not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem.

    `remedy` is what fixing does about it. It is empty if only a person can act, for whom `advice`
    says what to do. `error` says why fixing failed; `is_fixed` is then false.
    """

    name: str
    why: str
    run_id: str = ""
    remedy: str = ""
    advice: str = ""
    usd_per_hour: Decimal | None = None
    is_fixed: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check; `fix` returns the reason for each finding that it could not fix."""

    name: str
    find: Callable[[], list[Finding]]
    fix: Callable[[Sequence[Finding]], Mapping[str, str]]


def cannot_be_fixed(_findings: Sequence[Finding]) -> Mapping[str, str]:
    """Fix nothing: only a person can act on these findings."""
    return {}


def say(exc: Exception) -> str:
    """Return what went wrong; errors that are not runctl's own include their type."""
    return str(exc) if isinstance(exc, RunctlError) else f"{type(exc).__name__}: {exc}"


def each(act: Callable[[Finding], None]) -> Callable[[Sequence[Finding]], Mapping[str, str]]:
    """Return a function that fixes each finding, even if another one fails."""

    def fix_each(findings: Sequence[Finding]) -> Mapping[str, str]:
        failed: dict[str, str] = {}
        for finding in findings:
            try:
                act(finding)
            except Exception as exc:  # noqa: BLE001 - the others are fixed nevertheless
                failed[finding.name] = say(exc)
        return failed

    return fix_each
