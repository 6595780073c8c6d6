"""The doctor's checks of storage: volumes, uploads, parts, and data without a run."""

from runctl.control.findings import Account, Check, Finding, cannot_be_fixed, each
from runctl.control.ports.services import Services
from runctl.model.errors import DamagedCheckpointError
from runctl.model.identity import ENVIRONMENTS
from runctl.model.leftovers import UnfinishedUpload
from runctl.model.run import Attempt, Run
from runctl.policy.garbage import StoredPart, find_garbage
from runctl.policy.orphans import has_live_attempt, may_delete, orphaned_disks, orphaned_uploads


class StorageChecks:
    """Checks of what costs by the month."""

    def __init__(self, services: Services, account: Account) -> None:
        self._services = services
        self._account = account

    def checks(self) -> tuple[Check, ...]:
        """Return the checks."""
        return (
            Check(name="volumes", find=self.find_disks, fix=each(self.delete_disk)),
            Check(name="uploads", find=self.find_uploads, fix=each(self.abort_uploads)),
            Check(name="parts", find=self.find_parts, fix=each(self.delete_parts)),
            Check(name="data", find=self.find_data, fix=cannot_be_fixed),
            Check(name="environments", find=self.find_open_prefix, fix=cannot_be_fixed),
        )

    def find_disks(self) -> list[Finding]:
        """Find volumes that are attached to nothing."""
        now = self._services.clock.now()
        found = []
        for disk in orphaned_disks(self._account.disks(), now=now):
            known, attempts = self._run_and_attempts(disk.run_id)
            deletable = may_delete(disk, known, attempts, now=now)
            found.append(
                Finding(
                    name=disk.volume_id,
                    run_id=disk.run_id,
                    why=f"{disk.size_gib} GiB, attached to nothing",
                    remedy="delete it" if deletable else "",
                    advice=""
                    if deletable
                    else "its run is active, or has just ended; check again in a day"
                    if known
                    else "its run is not in this deployment; it may be in another one",
                )
            )
        return found

    def delete_disk(self, finding: Finding) -> None:
        """Delete a volume if it still may be deleted."""
        now = self._services.clock.now()
        for disk in orphaned_disks(self._account.disks(), now=now):
            if disk.volume_id == finding.name and may_delete(
                disk, *self._run_and_attempts(disk.run_id), now=now
            ):
                self._account.delete_disk(disk.volume_id)

    def _run_and_attempts(self, run_id: str) -> tuple[Run | None, list[Attempt]]:
        run = self._services.ledger.find_run(run_id) if run_id else None
        return run, [] if run is None else self._services.ledger.attempts(run_id)

    def _is_live(self, run_id: str) -> bool:
        run, attempts = self._run_and_attempts(run_id)
        return run is not None and has_live_attempt(run, attempts, now=self._services.clock.now())

    def _orphaned_uploads(self) -> list[UnfinishedUpload]:
        uploads = self._account.uploads()
        run_ids = {upload.run_id for upload in uploads}
        live = {run_id for run_id in run_ids if run_id and self._is_live(run_id)}
        return orphaned_uploads(uploads, live_runs=live, now=self._services.clock.now())

    def find_uploads(self) -> list[Finding]:
        """Find multipart uploads that will never be completed."""
        return [
            Finding(
                name=upload.key,
                run_id=upload.run_id,
                why=f"an upload started on {upload.begun_at:%Y-%m-%d %H:%M}Z and never completed",
                remedy="abort it",
            )
            for upload in self._orphaned_uploads()
        ]

    def abort_uploads(self, finding: Finding) -> None:
        """Abort the uploads to a key that will never be completed."""
        for upload in self._orphaned_uploads():
            if upload.key == finding.name:
                self._account.abort_upload(upload)

    def find_parts(self) -> list[Finding]:
        """Find parts that no manifest names, of runs without a live attempt."""
        found = []
        for run_id in self._account.stored_runs():
            if self._services.ledger.find_run(run_id) is None:
                continue
            try:
                garbage = self._garbage(run_id)
            except DamagedCheckpointError as exc:
                advice = f"see `runctl checkpoints {run_id} --verify`"
                why = f"a manifest cannot be read, so it is not known which parts it needs: {exc}"
                found.append(Finding(name=run_id, run_id=run_id, why=why, advice=advice))
                continue
            if garbage:
                size = sum(part.size_bytes for part in garbage)
                found.append(
                    Finding(
                        name=run_id,
                        run_id=run_id,
                        why=f"{len(garbage)} parts ({size:,} bytes) that no checkpoint names",
                        remedy="remove them",
                    )
                )
        return found

    def _garbage(self, run_id: str) -> list[StoredPart]:
        """Return the parts that may be deleted; DamagedCheckpointError if that is not known."""
        if self._is_live(run_id):
            return []
        store = self._account.checkpoints(run_id)
        # Parts first, so that a part which a later manifest names is not mistaken for garbage.
        parts = list(store.parts())
        needed = set[str]().union(
            *(store.get_manifest(key).digests for key in store.manifest_keys())
        )
        now = self._services.clock.now()
        # The run may have been resumed while its manifests were read.
        live = self._is_live(run_id)
        return find_garbage(parts, needed, has_live_attempt=live, now=now)

    def delete_parts(self, finding: Finding) -> None:
        """Remove the parts that are still named by no manifest."""
        garbage = self._garbage(finding.run_id)
        self._account.checkpoints(finding.run_id).delete_parts(part.sha256 for part in garbage)

    def find_data(self) -> list[Finding]:
        """Find stored data of runs and jobs that the ledger does not know."""
        ledger, groups = self._services.ledger, self._services.groups
        return [
            Finding(
                name=f"runs/{run_id}/",
                run_id=run_id,
                why="data of a run that the ledger does not know",
                advice="the ledger was replaced; inspect it, then use `aws s3 rm --recursive`",
            )
            for run_id in self._account.stored_runs()
            if ledger.find_run(run_id) is None and groups.find_group(run_id) is None
        ]

    def find_open_prefix(self) -> list[Finding]:
        """Find out whether an instance could replace an environment that others execute."""
        if self._account.refuses_to_overwrite(ENVIRONMENTS):
            return []
        return [
            Finding(
                name=ENVIRONMENTS,
                why="the bucket lets any instance replace the environments that other runs execute",
                advice="restore the bucket's policy with `runctl deploy`",
            )
        ]
