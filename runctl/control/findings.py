"""What the doctor's checks are made of: findings, cures, and what they see of an account."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from runctl.model.checkpoint import Manifest
from runctl.model.errors import RunctlError
from runctl.model.leftovers import Disk, UnfinishedUpload
from runctl.policy.garbage import StoredPart


class Parts(Protocol):
    """The checkpoint store of one run, as far as the doctor looks at it."""

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
        """Remove parts that no manifest needs any more."""
        ...


class Account(Protocol):
    """What the doctor sees of an account beyond what runs are made of."""

    def disks(self) -> list[Disk]:
        """Return the volumes that carry a run's tag."""
        ...

    def delete_disk(self, volume_id: str) -> None:
        """Delete a volume; one that is gone already is fine, one that is attached is refused."""
        ...

    def uploads(self) -> list[UnfinishedUpload]:
        """Return the multipart uploads to the deployment's bucket that were not ended."""
        ...

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Drop a multipart upload and its parts; one that is gone already is fine."""
        ...

    def stored_runs(self) -> list[str]:
        """Return the names of the runs that the bucket holds anything of."""
        ...

    def checkpoints(self, run_id: str) -> Parts:
        """Return the checkpoint store of a run."""
        ...

    def dead_letters(self) -> int | None:
        """Count the events that no function could handle; None when it is not known where."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    `cure` is what mending it does, empty when it takes a person, who is told what to do by
    `advice`. `error` says why mending failed; `is_mended` is never true beside it.
    """

    name: str
    why: str
    run_id: str = ""
    cure: str = ""
    advice: str = ""
    usd_per_hour: Decimal | None = None
    is_mended: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A thing to look at; `mend` returns why not, for each that it could not mend."""

    name: str
    find: Callable[[], list[Finding]]
    mend: Callable[[Sequence[Finding]], Mapping[str, str]]


def cannot_be_mended(_findings: Sequence[Finding]) -> Mapping[str, str]:
    """Mend nothing: these findings take a person."""
    return {}


def say(exc: Exception) -> str:
    """Say what went wrong: our own errors are sentences, of others the kind helps too."""
    return str(exc) if isinstance(exc, RunctlError) else f"{type(exc).__name__}: {exc}"


def each(act: Callable[[Finding], None]) -> Callable[[Sequence[Finding]], Mapping[str, str]]:
    """Mend one after the other; one that fails does not keep the others from it."""

    def mend_each(findings: Sequence[Finding]) -> Mapping[str, str]:
        failed: dict[str, str] = {}
        for finding in findings:
            try:
                act(finding)
            except Exception as exc:  # noqa: BLE001 - the others are mended all the same
                failed[finding.name] = say(exc)
        return failed

    return mend_each
