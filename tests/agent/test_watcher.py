"""Notices, requests and refused tokens, as the agent sees them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.__main__ import main
from runctl.agent.drain import grace_of
from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.paths import Paths
from runctl.agent.instance.settings import read_settings
from runctl.agent.reporting.heartbeat import Heartbeat
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.signals import request_files
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.request_files import Request
from runctl.agent.signals.watcher import InterruptionWatcher
from runctl.model.errors import SettingsError
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from tests.agent.doubles import MetadataDouble
from tests.agent.machine import Cloud, now, wait_until


@pytest.fixture
def metadata() -> Iterator[MetadataDouble]:
    double = MetadataDouble()
    yield double
    double.close()


@pytest.fixture
def watch(metadata: MetadataDouble, tmp_path: Path) -> InterruptionWatcher:
    paths = Paths(tmp_path)
    paths.make()
    return InterruptionWatcher(Metadata(metadata.url), paths, Mailbox())


def test_without_a_notice_nothing_ends(watch: InterruptionWatcher) -> None:
    watch.check_metadata()
    assert watch._mailbox.ending is None


def test_notice_ends_with_its_deadline(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    deadline = metadata.give_notice(120).replace(microsecond=0)
    watch.check_metadata()
    ending = watch._mailbox.ending
    assert ending is not None
    assert (ending.cause, ending.deadline) == (StopCause.NOTICE, deadline)
    assert watch._paths.notice.exists()


def test_notice_that_cannot_be_parsed_is_still_a_notice(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    metadata.values["spot/instance-action"] = "soon"
    watch.check_metadata()
    ending = watch._mailbox.ending
    assert ending is not None
    assert ending.cause is StopCause.NOTICE


def test_expired_metadata_token_is_renewed(metadata: MetadataDouble) -> None:
    client = Metadata(metadata.url)
    client.get("instance-id")
    metadata.TOKEN = "another"  # type: ignore[misc]
    assert client.get("instance-id") == "i-1"


def test_unreachable_metadata_is_an_error_and_not_a_notice(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    metadata.close()
    with pytest.raises(MetadataError):
        watch._metadata.notice()
    watch.check_metadata()
    assert watch._mailbox.ending is None


def test_truncated_metadata_response_is_an_error_and_does_not_end_the_watch(
    metadata: MetadataDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "answer", lambda *_: (200, b"half", {"Content-Length": "999"}))
    with pytest.raises(MetadataError):
        Metadata(metadata.url).notice()


def test_watch_survives_an_unexpected_failure(
    watch: InterruptionWatcher, metadata: MetadataDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    read_notice = watch._metadata.notice

    def notice() -> datetime | None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("unexpected")
        return read_notice()

    monkeypatch.setattr(watch._metadata, "notice", notice)
    watch.start()
    try:
        assert failed.wait(10)
        metadata.give_notice(120)
        wait_until(lambda: watch._mailbox.ending is not None)
    finally:
        watch.stop()


def test_rebalance_recommendation_requests_a_checkpoint_once(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    metadata.recommend_rebalance()
    watch.check_metadata()
    watch.check_metadata()
    assert watch._mailbox.take_checkpoint_request()
    assert not watch._mailbox.take_checkpoint_request()
    assert watch._mailbox.ending is None


def test_maintenance_that_is_days_away_requests_one_checkpoint_and_is_announced(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    metadata.schedule("instance-retirement", seconds=14 * 86400)
    for asked in (True, False, False):
        watch.check_maintenance()
        assert watch._mailbox.take_checkpoint_request() is asked
    assert watch._mailbox.ending is None
    assert "instance-retirement not before" in watch._mailbox.announced
    metadata.values["events/maintenance/scheduled"] = "[]"
    watch.check_maintenance()
    assert watch._mailbox.announced == ""


def test_maintenance_that_ends_the_instance_soon_is_an_end_and_not_a_notice(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    """EC2 charges for the time until then, so the agent does not wait for EC2."""
    due = metadata.schedule("instance-stop", seconds=600)
    for _ in range(2):
        watch.check_maintenance()
    ending = watch._mailbox.ending
    assert ending is not None
    assert (ending.cause, ending.deadline) == (StopCause.MAINTENANCE, due)
    assert watch._mailbox.noticed_at is None
    assert not watch._paths.notice.exists()


def test_notice_within_maintenance_wins_with_its_own_deadline(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    metadata.schedule("instance-stop", seconds=600)
    watch.check_maintenance()
    deadline = metadata.give_notice(100).replace(microsecond=0)
    watch.check_metadata()
    ending = watch._mailbox.ending
    assert ending is not None
    assert ending.cause is StopCause.NOTICE
    assert ending.deadline is not None
    assert abs(ending.deadline - deadline) < timedelta(seconds=1)
    assert watch._mailbox.noticed_at is not None


@pytest.mark.parametrize("code", ["system-reboot", "instance-reboot", "system-maintenance"])
def test_reboot_requests_a_save_and_ends_nothing(
    watch: InterruptionWatcher, metadata: MetadataDouble, code: str
) -> None:
    metadata.schedule(code, seconds=60)
    watch.check_maintenance()
    assert watch._mailbox.take_checkpoint_request()
    assert watch._mailbox.ending is None


def test_maintenance_that_cannot_be_read_or_requested_ends_nothing(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    metadata.values["events/maintenance/scheduled"] = "[{"
    watch.check_maintenance()
    metadata.close()
    watch.check_maintenance()
    assert watch._mailbox.ending is None


@pytest.mark.parametrize(
    ("request_", "cause"), [(Request.DRAIN, StopCause.NOTICE), (Request.STOP, StopCause.STOP)]
)
def test_request_file_ends_the_attempt_and_is_taken_once(
    watch: InterruptionWatcher, request_: Request, cause: StopCause
) -> None:
    request_files.write(watch._paths.requests, request_)
    watch.collect_requests()
    ending = watch._mailbox.ending
    assert ending is not None
    assert ending.cause is cause
    assert list(watch._paths.requests.iterdir()) == []


def test_drain_request_is_no_notice_of_each_node_of_a_gang(
    metadata: MetadataDouble, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    paths.make()
    watch = InterruptionWatcher(Metadata(metadata.url), paths, Mailbox(), is_gang=True)
    request_files.write(paths.requests, Request.DRAIN)
    watch.collect_requests()
    assert watch._mailbox.ending is None
    assert not paths.notice.exists()
    metadata.give_notice(20)
    request_files.write(paths.requests, Request.DRAIN)
    watch.collect_requests()
    ending = watch._mailbox.ending
    assert ending is not None
    assert ending.cause is StopCause.NOTICE
    assert watch._mailbox.noticed_at is not None


def test_drain_request_takes_its_deadline_from_the_notice_where_there_is_one(
    watch: InterruptionWatcher, metadata: MetadataDouble
) -> None:
    deadline = metadata.give_notice(20).replace(microsecond=0)
    request_files.write(watch._paths.requests, Request.DRAIN)
    watch.collect_requests()
    ending = watch._mailbox.ending
    assert ending is not None
    assert ending.deadline == deadline


def test_drain_request_carries_a_deadline_that_the_metadata_does_not_show(
    watch: InterruptionWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = (now() + timedelta(seconds=50)).replace(microsecond=0)
    monkeypatch.setenv("RUNCTL_ROOT", str(watch._paths.root))
    monkeypatch.setenv("RUNCTL_DEADLINE", f"{deadline:%Y-%m-%dT%H:%M:%SZ}")
    assert main(["drain"]) == 0
    watch.collect_requests()
    ending = watch._mailbox.ending
    assert ending is not None
    assert (ending.cause, ending.deadline) == (StopCause.NOTICE, deadline)


@pytest.mark.parametrize("text", ["", "soon", "2020-01-01T00:00:00Z"])
def test_deadline_that_cannot_be_read_or_is_over_leaves_time_to_save(
    watch: InterruptionWatcher, text: str
) -> None:
    request_files.write(watch._paths.requests, Request.DRAIN, deadline=text)
    watch.collect_requests()
    ending = watch._mailbox.ending
    assert ending is not None
    assert ending.deadline is not None
    assert ending.deadline > now() + timedelta(seconds=60)


def test_stronger_cause_wins_and_a_weaker_one_changes_nothing() -> None:
    mailbox = Mailbox()
    assert mailbox.end(StopRequest(cause=StopCause.NOTICE, reason="", detected=now()))
    assert mailbox.end(StopRequest(cause=StopCause.FENCED, reason="", detected=now()))
    assert not mailbox.end(StopRequest(cause=StopCause.STOP, reason="", detected=now()))
    assert mailbox.is_fenced


def test_missing_setting_is_named(metadata: MetadataDouble) -> None:
    with pytest.raises(SettingsError, match="RUNCTL_TABLE"):
        read_settings(Metadata(metadata.url), {"RUNCTL_BUCKET": "b"})


def test_tags_that_do_not_exist_yet_are_waited_for(metadata: MetadataDouble) -> None:
    del metadata.values["tags/instance/runctl:run-id"]
    names = ("RUNCTL_TABLE", "RUNCTL_BUCKET", "RUNCTL_LOG_GROUP", "RUNCTL_REGION")
    with pytest.raises(MetadataError, match="runctl:run-id"):
        read_settings(Metadata(metadata.url), dict.fromkeys(names, "x"))


@pytest.mark.parametrize(
    ("left", "asked", "upload", "grace"),
    [
        (None, 90, 10, 90),
        (None, 600, 10, 90),
        (120, 90, 10, 90),
        (60, 90, 10, 45),
        (120, 30, 10, 30),
        (10, 90, 10, 0),
    ],
)
def test_grace_is_the_smallest_of_all_limits(
    left: int | None, asked: int, upload: int, grace: int
) -> None:
    found = grace_of(
        asked=timedelta(seconds=asked),
        upload_time=timedelta(seconds=upload),
        left=None if left is None else timedelta(seconds=left),
    )
    assert found == timedelta(seconds=grace)


class Tokens:
    """Step Functions: accepts the valid tokens."""

    def __init__(self, *valid: str) -> None:
        self.valid = set(valid)
        self.beats: list[str] = []
        self.on_refusal: Callable[[], object] = lambda: None

    def beat(self, token: str) -> bool:
        if token not in self.valid:
            self.on_refusal()
            return False
        self.beats.append(token)
        return True


@pytest.fixture
def beating(cloud: Cloud, tmp_path: Path) -> Any:
    """A heartbeat with the token of attempt 1, driven by the test alone."""
    cloud.create_run("")
    cloud.open_attempt()
    cloud.give_token(token="old")
    mailbox = Mailbox()
    token = TaskToken(cloud.ledger, run_id="run-1", attempt=1, instance_id="i-1", mailbox=mailbox)
    token.wait(stop=threading.Event(), on_newest=lambda _run: None)
    return Heartbeat(
        cloud.ledger,
        Tokens("old"),
        token,
        node=NodeId("run-1", 1, 0),
        lease=tmp_path / "lease",
        progress=Progress(),
        mailbox=mailbox,
    )


def test_accepted_heartbeat_renews_the_lease(beating: Heartbeat) -> None:
    assert beating._beat()
    assert beating._lease.exists()


def test_refused_token_is_replaced_by_the_ledgers_newer_one(
    cloud: Cloud, beating: Heartbeat
) -> None:
    beating._workflow.valid = {"new"}
    cloud.give_token(token="new")
    assert beating._beat()
    assert beating._workflow.beats == ["new"]
    assert beating._mailbox.ending is None


def test_refusal_of_a_token_that_was_replaced_in_flight_does_not_count_for_the_newer_one(
    cloud: Cloud, beating: Heartbeat
) -> None:
    workflow = beating._workflow
    workflow.valid = {"new"}
    cloud.give_token(token="new")
    workflow.on_refusal = beating._token.find_newer  # as the report's thread may do at any time
    assert beating._beat()
    assert workflow.beats == ["new"]


def test_refused_token_with_a_higher_fence_makes_the_agent_exit_without_a_trace(
    cloud: Cloud, beating: Heartbeat
) -> None:
    beating._workflow.valid = set()
    cloud.open_attempt(2)
    cloud.give_token(2)
    assert not beating._beat()
    assert beating._mailbox.is_fenced


def test_refused_token_of_an_ended_run_makes_the_agent_drain_and_exit(
    cloud: Cloud, beating: Heartbeat
) -> None:
    beating._workflow.valid = set()
    cloud.ledger.end_run("run-1", status=RunStatus.STOPPED, reason="", now=now())
    assert not beating._beat()
    assert beating._mailbox.ending is not None
    assert beating._mailbox.ending.cause is StopCause.STOP


def test_refused_token_of_an_ended_run_is_replaced_too_since_a_redrive_waits_for_the_report(
    cloud: Cloud, beating: Heartbeat
) -> None:
    beating._workflow.valid = {"new"}
    cloud.give_token(token="new")
    cloud.ledger.end_run("run-1", status=RunStatus.STOPPED, reason="", now=now())
    assert beating._token.find_newer()
    assert beating._token.value == "new"
    assert beating._mailbox.ending is not None
    assert beating._mailbox.ending.cause is StopCause.STOP
    assert not beating._token.find_newer()


def test_refused_token_that_nothing_explains_is_tried_again(beating: Heartbeat) -> None:
    beating._workflow.valid = set()
    assert not beating._beat()
    assert not beating._beat()
    assert beating._mailbox.ending is None
    assert not beating._lease.exists()


def test_heartbeat_survives_an_unexpected_failure(
    beating: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.reporting.heartbeat.BEAT_AFTER_FAILURE", timedelta(0))
    store, failed = beating.store_progress, threading.Event()

    def fail_once() -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("unexpected")
        store()

    monkeypatch.setattr(beating, "store_progress", fail_once)
    beating.start(lambda _key: None)
    try:
        wait_until(lambda: len(beating._workflow.beats) >= 2)
    finally:
        beating.stop()
