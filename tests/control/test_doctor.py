"""The doctor finds leftovers, changes nothing without `fix`, and fixes only what is safe."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal

import pytest

from runctl.control.doctor import Doctor, examine, fix_findings
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import DamagedCheckpointError, RefusedError, TransientError
from runctl.model.group import Group
from runctl.model.leftovers import Disk, UnfinishedUpload
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.policy.garbage import StoredPart
from tests.attempts import change
from tests.control.fakes import START
from tests.control.scenes import ARN, RUN, launched, prepared, training
from tests.control.steps import finish_run

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
USED, UNUSED = "a" * 64, "b" * 64


@dataclass
class FakeStore:
    """The checkpoint store of one run."""

    stored: dict[str, StoredPart] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def parts(self):
        return iter(list(self.stored.values()))

    def manifest_keys(self):
        return list(self.manifests)

    def get_manifest(self, key):
        if self.manifests[key] is None:
            raise DamagedCheckpointError(f"{key} is no manifest")
        return self.manifests[key]

    def delete_parts(self, digests: Iterable[str]):
        for digest in digests:
            del self.stored[digest]


@dataclass
class FakeAccount:
    """Volumes, uploads and data, in memory."""

    volumes: dict[str, Disk] = field(default_factory=dict)
    begun: list[UnfinishedUpload] = field(default_factory=list)
    stores: dict[str, FakeStore] = field(default_factory=dict)
    letters: int | None = 0
    is_written_once: bool = True

    def refuses_to_overwrite(self, prefix):
        assert prefix == "environments/"
        return self.is_written_once

    def disks(self):
        return list(self.volumes.values())

    def delete_disk(self, volume_id):
        del self.volumes[volume_id]

    def uploads(self):
        return list(self.begun)

    def abort_upload(self, upload):
        self.begun.remove(upload)

    def stored_runs(self):
        return list(self.stores)

    def checkpoints(self, run_id):
        return self.stores[run_id]

    def dead_letters(self):
        return self.letters


class Clinic:
    """A world, its account, and the doctor that examines both."""

    def __init__(self):
        self.world = prepared()
        self.account = FakeAccount()
        self.deployment = {"deployed": "1.0", "version": "1.0", "is_whole": True}

    def checks(self):
        return Doctor(self.world, self.account, **self.deployment).checks()

    def check(self):
        """Return the findings by check, and assert that checking changes nothing."""
        before = self.state()
        examined = [examine(check) for check in self.checks()]
        assert self.state() == before
        assert [result.problem for result in examined if result.problem] == []
        return {
            result.check: [f.name for f in result.findings]
            for result in examined
            if result.findings
        }

    def state(self):
        world = self.world
        stores = {name: dict(store.stored) for name, store in self.account.stores.items()}
        return (
            dict(world.ledger.runs), dict(world.ledger.attempt_items), dict(world.fleet.machines),
            dict(world.fleet.fleets), list(world.commands.sent), list(world.notices.sent),
            dict(self.account.volumes), list(self.account.begun), stores,
        )  # fmt: skip

    def fix(self):
        """Return what was fixed and what was not, by name."""
        done = [fix_findings(check, examine(check)) for check in self.checks()]
        found = [finding for result in done for finding in result.findings]
        fixed = [finding.name for finding in found if finding.is_fixed]
        return fixed, {finding.name: finding.error for finding in found if not finding.is_fixed}

    def end(self, number=1):
        """End the attempt and the run, more than an hour ago."""
        now = self.world.clock.now()
        lost = Outcome(kind=OutcomeKind.LOST)
        self.world.ledger.end_attempt(RUN, number, outcome=lost, now=now)
        finish_run(self.world, RUN, status="completed", reason="")
        self.world.workflow.running.discard(ARN)
        self.world.workflow.ended[ARN] = "SUCCEEDED"

    def find(self, name):
        (found,) = (
            finding
            for check in self.checks()
            for finding in examine(check).findings
            if finding.name == name
        )
        return found


@pytest.fixture
def clinic():
    return Clinic()


def disk(clinic, *, age=2 * DAY, run_id=RUN, state="available"):
    made = Disk(
        volume_id="vol-1", run_id=run_id, attempt=1, state=state, size_gib=50,
        created_at=clinic.world.clock.now() - age,
    )  # fmt: skip
    clinic.account.volumes["vol-1"] = made


def test_nothing_is_found_when_nothing_is_wrong(clinic):
    training(clinic.world)
    clinic.world.clock.advance(DAY)
    assert clinic.check() == {}
    assert clinic.fix() == ([], {})


def test_a_run_whose_execution_ended_unnoticed_is_found_and_ended(clinic):
    instance_id = training(clinic.world)
    clinic.world.workflow.running.discard(ARN)
    clinic.world.workflow.ended[ARN] = "TIMED_OUT"
    assert clinic.check() == {"runs": [RUN]}
    assert "timed_out" in clinic.find(RUN).why
    assert clinic.fix() == ([RUN], {})
    assert clinic.world.ledger.find_run(RUN).ended is RunStatus.FAILED
    assert clinic.world.commands.sent == [(instance_id, "stop")]
    assert clinic.check() == {}


def test_an_unannounced_end_is_found_and_announced(clinic):
    clinic.world.notices.failure = TransientError("later")
    finish_run(clinic.world, RUN, status="completed", reason="")
    clinic.world.workflow.running.discard(ARN)
    clinic.world.workflow.ended[ARN] = "SUCCEEDED"
    clinic.world.notices.failure = None
    clinic.world.clock.advance(HOUR)
    assert clinic.check() == {"runs": [RUN]}
    assert clinic.find(RUN).why == "it ended as completed, and nobody was notified"
    assert clinic.fix() == ([RUN], {})
    assert clinic.world.notices.subjects == [f"run {RUN} completed"]


def left_over_machine(clinic):
    instance_id = training(clinic.world)
    lost = Outcome(kind=OutcomeKind.LOST)
    clinic.world.ledger.end_attempt(RUN, 1, outcome=lost, now=clinic.world.clock.now())
    clinic.world.clock.advance(10 * MINUTE)
    return instance_id


def test_an_unneeded_machine_is_found_with_its_price_and_terminated(clinic):
    instance_id = left_over_machine(clinic)
    pool = clinic.world.fleet.machines[instance_id].pool
    clinic.world.prices.known[pool] = Decimal("0.25")
    assert clinic.check() == {"machines": [instance_id]}
    assert clinic.find(instance_id).usd_per_hour == Decimal("0.25")
    assert clinic.fix() == ([instance_id], {})
    assert clinic.world.fleet.running() == []


def test_a_denied_price_request_does_not_hide_the_machine(clinic):
    instance_id = left_over_machine(clinic)

    def current(_pools, *, now):
        raise RefusedError(f"no permission at {now}")

    clinic.world.prices.current = current
    assert clinic.check() == {"machines": [instance_id]}
    assert clinic.find(instance_id).usd_per_hour is None


def test_a_machine_with_a_notice_is_left_to_ec2_in_its_first_hour(clinic):
    instance_id = training(clinic.world)
    clinic.world.ledger.record_notice(NodeId(RUN, 1, 0), now=clinic.world.clock.now())
    lost = Outcome(kind=OutcomeKind.LOST)
    clinic.world.ledger.end_attempt(RUN, 1, outcome=lost, now=clinic.world.clock.now())
    clinic.world.clock.advance(59 * MINUTE)
    assert clinic.check() == {}
    clinic.world.clock.advance(MINUTE)
    assert clinic.check() == {"machines": [instance_id]}


def test_a_machine_that_got_a_notice_after_the_check_is_not_terminated(clinic):
    instance_id = left_over_machine(clinic)
    (check,) = (known for known in clinic.checks() if known.name == "machines")
    examined = examine(check)
    clinic.world.ledger.record_notice(NodeId(RUN, 1, 0), now=clinic.world.clock.now())
    fix_findings(check, examined)
    assert clinic.world.fleet.terminated == []
    assert clinic.world.fleet.machines[instance_id].is_live


def test_a_stopped_machine_is_reported_and_left_alone(clinic):
    instance_id = launched(clinic.world)
    machine = clinic.world.fleet.machines[instance_id]
    clinic.world.fleet.machines[instance_id] = replace(machine, state="stopped")
    clinic.world.clock.advance(DAY)
    assert clinic.check() == {"machines": [instance_id]}
    assert clinic.fix() == ([], {instance_id: ""})
    assert "terminate-instances" in clinic.find(instance_id).advice


def test_an_empty_fleet_is_found_and_deleted(clinic):
    instance_id = training(clinic.world)
    clinic.end()
    clinic.world.fleet.end(instance_id, reason="Client.UserInitiatedShutdown")
    clinic.world.clock.advance(2 * HOUR)
    (fleet_id,) = clinic.world.fleet.fleets
    assert clinic.check() == {"fleets": [fleet_id]}
    assert clinic.fix() == ([fleet_id], {})
    assert clinic.check() == {}


def test_a_fleet_that_ec2_does_not_delete_is_not_counted_as_fixed(clinic):
    instance_id = training(clinic.world)
    clinic.end()
    clinic.world.fleet.end(instance_id, reason="Client.UserInitiatedShutdown")
    clinic.world.clock.advance(2 * HOUR)
    (fleet_id,) = clinic.world.fleet.fleets
    clinic.world.fleet.delete_fleets = lambda ids: dict.fromkeys(ids, "hm")
    assert clinic.fix() == ([], {fleet_id: "hm"})


def test_a_volume_of_an_ended_run_is_found_after_an_hour_and_may_be_deleted_after_a_day(clinic):
    training(clinic.world)
    clinic.world.fleet.end("i-0001", reason="Server.SpotInstanceTermination")
    clinic.end()
    clinic.world.clock.advance(31 * MINUTE)
    disk(clinic, age=59 * MINUTE)
    assert clinic.check() == {}
    disk(clinic, age=HOUR)
    assert clinic.check() == {"volumes": ["vol-1"]}
    assert clinic.fix() == ([], {"vol-1": ""})
    disk(clinic, age=DAY)
    assert clinic.fix() == (["vol-1"], {})
    assert clinic.account.volumes == {}


def test_a_volume_in_use_of_a_live_run_or_of_no_run_of_ours_is_never_deleted(clinic):
    training(clinic.world)
    disk(clinic, state="in-use")
    assert clinic.check() == {}
    disk(clinic)
    assert clinic.fix() == ([], {"vol-1": ""})
    disk(clinic, run_id="theirs")
    assert clinic.fix() == ([], {"vol-1": ""})
    assert "in another one" in clinic.find("vol-1").advice


def stored(clinic, *, age=2 * DAY):
    """Store a checkpoint of one part, next to a part that no manifest names."""
    at = clinic.world.clock.now() - age
    manifest = Manifest(
        run_id=RUN, step=1, attempt=1, taken_at="2030-01-01T00:00:00+00:00",
        entries=(
            Entry(path="a", kind="file", mode=0o644, mtime_ns=0, size_bytes=3,
                  parts=(Part(sha256=USED, size_bytes=3),)),
        ),
    )  # fmt: skip
    parts = {
        digest: StoredPart(sha256=digest, size_bytes=3, stored_at=at) for digest in (USED, UNUSED)
    }
    clinic.account.stores[RUN] = FakeStore(stored=parts, manifests={"m": manifest})
    return clinic.account.stores[RUN]


def over(clinic):
    training(clinic.world)
    clinic.world.fleet.end("i-0001", reason="Server.SpotInstanceTermination")
    clinic.end()
    clinic.world.clock.advance(45 * MINUTE)
    clinic.world.fleet.delete_fleets(list(clinic.world.fleet.fleets))


def test_parts_that_no_checkpoint_names_are_found_and_only_those_are_removed(clinic):
    over(clinic)
    store = stored(clinic)
    assert clinic.check() == {"parts": [RUN]}
    assert clinic.find(RUN).why == "1 parts (3 bytes) that no checkpoint names"
    assert clinic.fix() == ([RUN], {})
    assert list(store.stored) == [USED]


def test_parts_of_today_and_of_a_live_run_stay(clinic):
    training(clinic.world)
    stored(clinic)
    assert clinic.check() == {}
    clinic.world.fleet.end("i-0001", reason="Server.SpotInstanceTermination")
    clinic.end()
    assert clinic.check() == {}, "an attempt that ended a moment ago may still be saving"
    clinic.world.clock.advance(45 * MINUTE)
    stored(clinic, age=23 * HOUR)
    assert clinic.check() == {}


def test_parts_of_a_run_that_was_resumed_after_the_check_stay(clinic):
    over(clinic)
    store = stored(clinic)
    (check,) = (known for known in clinic.checks() if known.name == "parts")
    examined = examine(check)
    clinic.world.ledger.resume_run(
        RUN, execution=f"{RUN}-r2", execution_arn="arn:2", first_attempt=2
    )
    fix_findings(check, examined)
    assert set(store.stored) == {USED, UNUSED}


def test_nothing_is_removed_next_to_a_manifest_that_cannot_be_read(clinic):
    over(clinic)
    store = stored(clinic)
    store.manifests["damaged"] = None
    assert clinic.check() == {"parts": [RUN]}
    assert clinic.fix() == ([], {RUN: ""})
    assert set(store.stored) == {USED, UNUSED}
    assert "cannot be read" in clinic.find(RUN).why


@pytest.mark.parametrize("prefix", [f"runs/{RUN}/outputs/a", "code/x.tar.gz"])
def test_an_unfinished_upload_is_aborted_after_a_day(clinic, prefix):
    over(clinic)
    clinic.account.begun = [UnfinishedUpload(key=prefix, upload_id="u", begun_at=START - 22 * HOUR)]
    assert clinic.check() == {}
    clinic.world.clock.advance(2 * HOUR)
    assert clinic.check() == {"uploads": [prefix]}
    assert clinic.fix() == ([prefix], {})
    assert clinic.account.begun == []


def test_an_upload_of_a_live_run_is_left_however_long_it_takes(clinic):
    training(clinic.world)
    key = f"runs/{RUN}/outputs/a"
    clinic.account.begun = [UnfinishedUpload(key=key, upload_id="u", begun_at=START - 9 * DAY)]
    assert clinic.check() == {}


def test_data_of_a_run_that_the_ledger_does_not_know_is_reported_and_kept(clinic):
    clinic.account.stores["long-ago"] = FakeStore()
    assert clinic.check() == {"data": ["runs/long-ago/"]}
    assert clinic.fix() == ([], {"runs/long-ago/": ""})


def test_the_shards_of_a_job_on_several_instances_are_not_data_without_a_run(clinic):
    clinic.account.stores["clean"] = FakeStore()
    clinic.world.groups.create_group(
        Group(group_id="clean", kind="process", execution="clean", execution_arn="arn:clean",
              started_at=START)
    )  # fmt: skip
    assert clinic.check() == {}


def test_the_state_of_the_deployment_is_reported(clinic):
    clinic.deployment = {"deployed": "0.9", "version": "1.0", "is_whole": False}
    clinic.account.letters = 3
    assert clinic.check() == {
        "deployment": ["version", "parameter"],
        "dead letters": ["dead-letter queue"],
    }
    assert clinic.fix()[0] == []


def test_a_denied_check_does_not_stop_the_others(clinic):
    instance_id = left_over_machine(clinic)

    def disks():
        raise RefusedError("ec2:DescribeVolumes is missing")

    def uploads():
        raise KeyError("odd")

    clinic.account.disks, clinic.account.uploads = disks, uploads
    examined = {result.check: result for result in map(examine, clinic.checks())}
    assert examined["volumes"].problem == "ec2:DescribeVolumes is missing"
    assert examined["uploads"].problem == "KeyError: 'odd'"
    assert [finding.name for finding in examined["machines"].findings] == [instance_id]


def test_a_finding_that_cannot_be_fixed_does_not_stop_the_others(clinic):
    over(clinic)
    disk(clinic)
    clinic.account.volumes["vol-2"] = replace(clinic.account.volumes["vol-1"], volume_id="vol-2")
    delete = clinic.account.delete_disk

    def refuse_the_first(volume_id):
        if volume_id == "vol-1":
            raise RefusedError("ec2:DeleteVolume is missing")
        delete(volume_id)

    clinic.account.delete_disk = refuse_the_first
    assert clinic.fix() == (["vol-2"], {"vol-1": "ec2:DeleteVolume is missing"})


def test_fixing_twice_finds_nothing_the_second_time(clinic):
    over(clinic)
    stored(clinic)
    disk(clinic)
    clinic.world.clock.advance(HOUR)
    fixed, left = clinic.fix()
    assert (fixed, left) == (["vol-1", RUN], {})
    assert clinic.check() == {}
    assert clinic.fix() == ([], {})


def test_parts_of_a_run_that_is_resumed_while_its_manifests_are_read_stay(clinic):
    over(clinic)
    store = stored(clinic)
    read = store.get_manifest

    def read_while_somebody_resumes(key):
        clinic.world.ledger.resume_run(
            RUN, execution=f"{RUN}-r2", execution_arn="arn:2", first_attempt=2
        )
        return read(key)

    store.get_manifest = read_while_somebody_resumes
    assert clinic.fix() == ([], {})
    assert set(store.stored) == {USED, UNUSED}


def test_the_manifests_of_a_live_run_are_not_read(clinic):
    training(clinic.world)
    stored(clinic).manifests["being written"] = None
    assert clinic.check() == {}


@pytest.mark.parametrize("heard", [True, False])
def test_an_open_or_recently_heard_attempt_keeps_its_parts_although_the_run_ended(clinic, heard):
    training(clinic.world)
    if not heard:
        # Its end was never written, because the caller that ended the run stopped there.
        finish = clinic.world.ledger.end_run
        finish(RUN, status=RunStatus.FAILED, reason="", now=clinic.world.clock.now())
        clinic.world.ledger.record_notified(RUN, end=clinic.world.clock.now())
    else:
        clinic.end()
    clinic.world.fleet.end("i-0001", reason="Server.SpotInstanceTermination")
    clinic.world.clock.advance(45 * MINUTE)
    if heard:
        attempt = clinic.world.ledger.attempt_items[RUN, 1]
        beat = clinic.world.clock.now() - MINUTE
        clinic.world.ledger.attempt_items[RUN, 1] = change(attempt, heartbeat_at=beat)
    stored(clinic)
    assert clinic.check() == {}


def test_a_fleet_that_is_not_empty_at_the_second_check_stays(clinic):
    instance_id = training(clinic.world)
    machine = clinic.world.fleet.machines[instance_id]
    clinic.end()
    clinic.world.fleet.end(instance_id, reason="Client.UserInitiatedShutdown")
    clinic.world.clock.advance(2 * HOUR)
    (check,) = (known for known in clinic.checks() if known.name == "fleets")
    examined = examine(check)
    assert len(examined.findings) == 1
    # EC2 is eventually consistent, in both directions.
    clinic.world.fleet.machines[instance_id] = machine
    fix_findings(check, examined)
    assert clinic.world.fleet.machines[instance_id].is_live


def test_a_bucket_that_lets_instances_replace_environments_is_found_and_left_to_a_person():
    clinic = Clinic()
    clinic.account.is_written_once = False
    assert clinic.check() == {"environments": ["environments/"]}
    assert clinic.fix() == ([], {"environments/": ""})


def test_a_group_whose_execution_ended_unnoticed_is_ended():
    clinic = Clinic()
    groups, workflow = clinic.world.groups, clinic.world.workflow
    groups.create_group(
        Group(group_id="g", kind="sweep", execution="g", execution_arn="arn:g", started_at=START)
    )
    workflow.running.add("arn:g")
    assert clinic.check() == {}
    workflow.running.discard("arn:g")
    workflow.ended["arn:g"] = "TIMED_OUT"
    assert clinic.check() == {"groups": ["g"]}
    assert clinic.fix() == (["g"], {})
    assert groups.find_group("g").ended is RunStatus.FAILED
    assert clinic.check() == {}
