"""Accounting for everything that a run had: machines, fleets, parts."""

from datetime import datetime, timedelta, timezone

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.instant_fleets import find_fleets
from runctl.cli.commands.checkpoints.pruning import carry_out, plan_pruning
from tests.e2e.testbed import Testbed


def check_machines(testbed: Testbed, run_id: str) -> None:
    testbed.wait_for_no_instance(run_id)
    known = {
        instance_id for attempt in testbed.attempts(run_id) for instance_id in attempt.instance_ids
    }
    assert {instance["instance_id"] for instance in testbed.instances(run_id)} == known
    deployment = testbed.deployment
    templates = {*deployment.launch_templates.values(), *deployment.gang_templates.values()}
    fleets = find_fleets(testbed.clients.get("ec2"), templates=templates)
    launched = [
        instance_id
        for fleet in fleets
        if fleet.run_id == run_id
        for instance_id in fleet.instance_ids
    ]
    assert sorted(launched) == sorted(known)
    assert len(launched) == len(set(launched))


def check_parts(testbed: Testbed, run_id: str) -> None:
    """Check that every part is needed by a manifest, or is garbage that a prune removes."""
    store = CheckpointStore(
        testbed.clients.get("s3"), bucket=testbed.deployment.bucket, run_id=run_id
    )
    testbed.verify_checkpoint_exists(run_id)
    later = datetime.now(timezone.utc) + timedelta(hours=25)
    carry_out(store, plan_pruning(store, testbed.run(run_id), keep=1, now=later))
    (key,) = store.manifest_keys()
    needed = {part.sha256 for entry in store.get_manifest(key).entries for part in entry.parts}
    assert {part.sha256 for part in store.parts()} == needed
    testbed.verify_checkpoint_exists(run_id)
