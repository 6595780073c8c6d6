"""Attempts from start to end: real trainers, a real agent process, and every outcome."""

from __future__ import annotations

import json
import os
import pwd
import signal
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.agent.runtime.environment import base_environment
from runctl.agent.runtime.systemd_scope import scope
from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.candidates import PREVIOUS
from runctl.model.checkpoint import MANIFEST_VERSION, Manifest
from runctl.model.excerpt import MAX_REASON
from runctl.model.log_fragments import Joiner
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from runctl.model.saving_options import CheckpointOptions
from tests.agent.machine import PROJECT, VENV, Cloud, is_alive, now, wait_until

pytestmark = pytest.mark.slow

SAVES_ONCE = """
    import os, pathlib
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    (folder / "epoch-7.bin").write_bytes(b"weights")
    (pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"]) / "model.txt").write_text("done")
    print("trained")
"""


def test_completed_trainer_is_saved_reported_and_the_instance_shuts_down(
    cloud: Cloud, launch
) -> None:
    cloud.create_run(SAVES_ONCE)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome() == {"kind": "completed", "reason": "", "exit_code": 0, "step": 7}
    assert machine.wait() == 0
    assert machine.shut_down
    assert cloud.run().step == 7
    assert cloud.read("runs/run-1/outputs/model.txt") == b"done"
    assert "trained" in cloud.log("run-1/0001-000")
    assert {"booted", "started", "exited", "committed"} <= set(cloud.attempt().timeline)
    assert wait_until(lambda: cloud.keys("runs/run-1/logs/")) == [
        "runs/run-1/logs/0001-000-agent.log"
    ]


WRITES_METRICS = """
    import os, pathlib, sys
    folder = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])
    (folder / "metrics.json").write_text(sys.argv[1])
"""


def run_with_metrics(cloud: Cloud, launch, text: str) -> None:
    cloud.create_run(WRITES_METRICS, args=(text,))
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome()["kind"] == "completed"
    machine.wait()


def test_the_metrics_file_becomes_part_of_the_result(cloud: Cloud, launch) -> None:
    run_with_metrics(cloud, launch, '{"accuracy": 0.5, "loss": NaN, "per_class": {"cat": 1}}')
    assert cloud.run().metrics == {"accuracy": 0.5, "loss": "NaN", "per_class": {"cat": 1}}
    assert b"accuracy" in cloud.read("runs/run-1/outputs/metrics.json")


def test_a_metrics_file_that_cannot_be_stored_is_a_warning(cloud: Cloud, launch) -> None:
    run_with_metrics(cloud, launch, '{"matrix": [1, 2]}')
    assert cloud.run().metrics == {}
    assert "metrics.json is not part of the result: matrix is a list" in cloud.attempt().warning


AWARE = """
    import os, pathlib, signal, sys, time
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    resume = os.environ.get("RUNCTL_RESUME_STEP")
    step = int(resume) if resume else 0
    print("from", step, sorted(path.name for path in folder.iterdir()), flush=True)
    while step < 400:
        time.sleep(0.05)
        step += 1
        if stop:
            (folder / f"step-{step}.bin").write_bytes(b"x" * 1000 + str(step).encode())
            print("saved", step, flush=True)
            sys.exit(0)
"""


def printed(machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


def go_on(machine) -> None:
    """Let a waiting trainer continue."""
    (machine.state / "output/go-on").touch()


def started(machine) -> bool:
    return bool(printed(machine))


def test_notice_drains_reports_interrupted_and_leaves_the_instance_to_ec2(
    cloud: Cloud, launch
) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: started(machine))
    machine.metadata.give_notice(seconds=60)
    outcome = cloud.outcome()
    assert outcome["kind"] == "interrupted"
    assert outcome["exit_code"] == 0
    assert outcome["step"] == cloud.run().step > 0
    assert machine.wait() == 0
    assert not machine.shut_down
    timeline = cloud.attempt().timeline
    assert (
        timeline["detected"] <= timeline["sigterm"] <= timeline["exited"] <= timeline["committed"]
    )


def test_maintenance_is_shown_and_left_before_it_ends_the_instance(cloud: Cloud, launch) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: started(machine))
    machine.metadata.schedule("instance-retirement", seconds=86400)
    wait_until(lambda: "instance-retirement" in cloud.attempt().warning)
    machine.metadata.schedule("instance-retirement", seconds=600)
    outcome = cloud.outcome()
    assert outcome["kind"] == "interrupted"
    assert "instance-retirement" in outcome["reason"]
    assert outcome["step"] == cloud.run().step > 0
    assert machine.wait() == 0
    assert machine.shut_down
    assert cloud.attempt().noticed_at is None


def test_next_attempt_prepares_early_and_resumes_with_its_token(cloud: Cloud, launch) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: started(first))
    cloud.open_attempt(2)
    second = launch(attempt=2)
    wait_until(lambda: "ready" in str(list(second.state.glob("environments/*/ready"))))
    first.metadata.give_notice(seconds=60)
    step = cloud.outcome()["step"]
    assert not started(second)
    cloud.give_token(2)
    wait_until(lambda: started(second))
    assert (
        (second.state / "log/trainer.out")
        .read_text()
        .startswith(f"from {step} ['step-{step}.bin']")
    )
    wait_until(lambda: cloud.attempt(2).resume_step == step)
    first.wait()


def begin(cloud: Cloud, launch, program: str, **request):
    """Submit a run, launch its first attempt with a token, and wait for the trainer's output."""
    cloud.create_run(program, **request)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: started(machine))
    return machine


def test_checkpoint_of_a_newer_runctl_fails_the_run_instead_of_losing_its_steps(
    cloud: Cloud, launch
) -> None:
    cloud.create_run("print('never')")
    cloud.open_attempt()
    cloud.give_token()
    store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id)
    made = Manifest(run_id=cloud.run_id, step=1, attempt=1, taken_at="", entries=())
    older = store.put_manifest(made)
    newest = store.put_manifest(
        replace(made, step=2, version=MANIFEST_VERSION + 1, metadata={PREVIOUS: [older]})
    )
    cloud.ledger.commit_checkpoint(
        cloud.run_id, 1, step=2, save=2, manifest=newest, progressed=True, now=now()
    )
    cloud.open_attempt(2)
    cloud.give_token(2)
    machine = launch(attempt=2)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "newer runctl than the deployment" in outcome["reason"]
    assert "runctl resume run-1" in outcome["reason"]
    assert not started(machine)


def test_trainer_that_ignores_sigterm_is_killed_after_its_grace(cloud: Cloud, launch) -> None:
    machine = begin(
        cloud,
        launch,
        """
        import os, pathlib, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        (folder / "step-3.bin").write_bytes(b"whole")
        print("saved", flush=True)
        with (folder / "step-4.bin").open("wb") as stream:
            while True:
                stream.write(b"torn")
                stream.flush()
                time.sleep(0.02)
        """,
        checkpoint=CheckpointOptions(grace_seconds=1),
    )
    wait_until(lambda: cloud.run().step == 3)
    machine.metadata.give_notice(60)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"], outcome["step"]) == ("interrupted", -9, 3)
    assert cloud.run().step == 3
    timeline = cloud.attempt().timeline
    assert 0.9 <= (timeline["exited"] - timeline["sigterm"]).total_seconds() <= 3


def test_trainer_that_sigterm_kills_during_a_save_leaves_the_previous_checkpoint(
    cloud: Cloud, launch
) -> None:
    machine = begin(
        cloud,
        launch,
        """
        import os, pathlib, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        (folder / "checkpoint-1").mkdir()
        (folder / "checkpoint-1/model.bin").write_bytes(b"1")
        print("saved", flush=True)
        while not pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "go-on").exists():
            time.sleep(0.02)
        (folder / "checkpoint-2").mkdir()
        half = (folder / "checkpoint-2/model.bin").open("wb", buffering=0)
        half.write(b"2")
        print("half", flush=True)
        time.sleep(100)
        """,
    )
    wait_until(lambda: cloud.run().step == 1)
    go_on(machine)
    wait_until(lambda: "half" in printed(machine))
    machine.ask("drain")
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"], outcome["step"]) == ("interrupted", -15, 1)
    manifest = json.loads(cloud.read(cloud.run().newest))
    assert {entry["path"].partition("/")[0] for entry in manifest["entries"]} == {"checkpoint-1"}
    assert not machine.shut_down


def test_workers_that_outlive_the_trainer_end_with_it(cloud: Cloud, launch) -> None:
    machine = begin(
        cloud,
        launch,
        """
        import os, pathlib, signal, subprocess, sys, time
        ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
        worker = f"import signal, time; {ignore}; time.sleep(999)"
        workers = [
            subprocess.Popen([sys.executable, "-c", worker], start_new_session=True).pid
            for _ in range(2)
        ]
        def save(*_):
            (pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / "step-1.bin").write_bytes(b"1")
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        print(*workers, flush=True)
        time.sleep(100)
        """,
    )
    workers = [int(word) for word in printed(machine).split()]
    assert all(is_alive(pid) for pid in workers)
    machine.metadata.give_notice(60)
    assert cloud.outcome()["step"] == 1
    wait_until(lambda: not any(is_alive(pid) for pid in workers))


def test_sigterm_reaches_the_trainer_behind_a_shell(cloud: Cloud, launch) -> None:
    machine = begin(
        cloud,
        launch,
        AWARE,
        files={"go.sh": "python train.py\nexit $?\n"},
        script="go.sh",
    )
    machine.metadata.give_notice(60)
    outcome = cloud.outcome()
    assert outcome["kind"] == "interrupted"
    assert outcome["step"] > 0


def test_failing_trainer_is_reported_with_its_last_words(cloud: Cloud, launch) -> None:
    cloud.create_run("import sys\nprint('out')\nraise ValueError('the loss is nan')")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert outcome["exit_code"] == 1
    assert outcome["reason"].startswith("exit code 1: ")
    assert outcome["reason"].endswith("ValueError: the loss is nan")
    machine.wait()
    assert machine.shut_down


def test_reason_ends_with_the_last_words_however_long_the_output_before(
    cloud: Cloud, launch
) -> None:
    cloud.create_run("""
        import sys

        for line in range(12):
            print(f"warning {line}: " + "x" * 100, file=sys.stderr)
        print("\\r".join(f"{done}%" for done in range(101)), file=sys.stderr)
        sys.exit("THE CAUSE: no space for rent")
    """)
    cloud.open_attempt()
    cloud.give_token()
    launch()
    reason = cloud.outcome()["reason"]
    assert reason.startswith("exit code 1: …\nwarning ")
    assert reason.endswith("\n100%\nTHE CAUSE: no space for rent")
    assert len(reason) <= MAX_REASON


def test_stop_saves_reports_and_shuts_down(cloud: Cloud, launch) -> None:
    machine = begin(cloud, launch, AWARE)
    machine.ask("stop")
    outcome = cloud.outcome()
    assert outcome["kind"] == "stopped"
    assert cloud.run().step == outcome["step"] > 0
    machine.wait()
    assert machine.shut_down


def test_fenced_attempt_kills_its_trainer_and_commits_nothing(cloud: Cloud, launch) -> None:
    machine = begin(cloud, launch, AWARE)
    cloud.open_attempt(2)
    cloud.tokens.valid.clear()
    cloud.give_token(2)
    machine.ask("checkpoint")  # so that it reports to the ledger now, and not at its next heartbeat
    assert machine.wait() == 0
    assert machine.shut_down
    assert cloud.tokens.reports == []
    assert cloud.run().newest is None
    assert cloud.keys("runs/run-1/checkpoints/manifests/") == []


def test_report_refused_for_an_old_token_is_repeated_with_the_newer_one(
    cloud: Cloud, launch
) -> None:
    machine = begin(cloud, launch, AWARE)
    wait_until(lambda: cloud.tokens.beats)
    cloud.tokens.valid.clear()
    cloud.give_token(token="token-1-again")
    machine.metadata.give_notice(60)
    assert cloud.outcome()["kind"] == "interrupted"


def test_run_that_ended_is_drained_committed_and_left(cloud: Cloud, launch) -> None:
    machine = begin(cloud, launch, AWARE)
    cloud.tokens.valid.clear()
    cloud.ledger.end_run("run-1", status=RunStatus.STOPPED, reason="stopped", now=now())
    machine.ask("stop")
    assert machine.wait() == 0
    assert machine.shut_down
    assert cloud.run().step > 0
    assert cloud.tokens.reports == []


def test_attempt_that_waits_for_its_token_leaves_when_the_run_ends(cloud: Cloud, launch) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    machine = launch()
    wait_until(lambda: list(machine.state.glob("environments/*/ready")))
    cloud.ledger.end_run("run-1", status=RunStatus.STOPPED, reason="stopped", now=now())
    assert machine.wait() == 0
    assert machine.shut_down
    assert not started(machine)


def test_second_machine_of_an_attempt_leaves_without_a_trace_though_there_is_a_token(
    cloud: Cloud, launch
) -> None:
    """EC2 has forgotten the token of a replayed launch, and launched again."""
    cloud.create_run("import time\ntime.sleep(60)")
    cloud.open_attempt()
    cloud.give_token()
    stray = launch(start=False)
    stray.metadata.values["instance-id"] = "i-stray"
    # It had its session before the other machine was recorded.
    cloud.sessions.find = lambda _instance_id: NodeId("run-1", 1, 0)
    stray.start()
    assert stray.wait() == 0
    assert stray.shut_down
    assert cloud.attempt().ended is None
    assert cloud.tokens.reports == []
    assert "the attempt is on another instance" in stray.agent_log()
    assert cloud.keys("runs/run-1/checkpoints/") == []


def test_killed_agent_starts_again_from_the_newest_checkpoint(cloud: Cloud, launch) -> None:
    machine = begin(
        cloud,
        launch,
        """
        import os, pathlib, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        resume = os.environ["RUNCTL_RESUME_STEP"]
        print("from", resume or "the start", os.getpid(), flush=True)
        if not resume:
            (folder / "step-5.bin").write_bytes(b"5")
            while not pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "go-on").exists():
                time.sleep(0.02)
            torn = (folder / "step-6.bin").open("wb", buffering=0)
            torn.write(b"torn")
            time.sleep(100)
        """,
    )
    first = int(printed(machine).split()[-1])
    wait_until(lambda: cloud.run().step == 5)
    go_on(machine)
    wait_until((machine.checkpoint / "step-6.bin").exists)
    machine.kill_agent()
    machine.start()
    assert cloud.outcome()["kind"] == "completed"
    assert "from 5" in printed(machine)
    assert not is_alive(first)


def test_kill_in_the_middle_of_an_upload_leaves_the_previous_checkpoint_newest(
    cloud: Cloud, launch
) -> None:
    # The first part is of step 1, so the agent is killed with two parts of step 2 stored.
    machine = begin(
        cloud,
        lambda: launch(fault="save.first_part_stored:3"),
        """
        import os, pathlib, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        (folder / "step-1.bin").write_bytes(b"1")
        print("saved", flush=True)
        while not pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "go-on").exists():
            time.sleep(0.02)
        (folder / "step-2.bin").write_bytes(os.urandom(200 << 20))
        time.sleep(100)
        """,
    )
    wait_until(lambda: cloud.run().step == 1)
    go_on(machine)
    parts = "runs/run-1/checkpoints/parts/"
    assert machine.wait() == -signal.SIGKILL
    assert cloud.run().step == 1
    assert json.loads(cloud.read(cloud.run().newest))["step"] == 1
    assert 3 <= len(cloud.keys(parts)) < 26


def test_trainer_without_the_helper_is_left_alone_when_a_checkpoint_is_requested(
    cloud: Cloud, launch
) -> None:
    machine = begin(cloud, launch, AWARE)
    machine.metadata.recommend_rebalance()
    assert "saves by itself" in wait_until(lambda: cloud.attempt().warning)
    assert (machine.root / "run/runctl/checkpoint-request").exists()
    assert machine.process.poll() is None
    assert cloud.tokens.reports == []


def test_save_that_the_helper_announces_is_committed_with_its_step(cloud: Cloud, launch) -> None:
    begin(
        cloud,
        launch,
        """
        import json, os, pathlib, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        (folder / "model.bin").write_bytes(b"1")
        with open(os.environ["RUNCTL_SAVED_FILE"], "a") as stream:
            stream.write(json.dumps({"step": 42}) + "\\n")
        print("saved", flush=True)
        time.sleep(100)
        """,
    )
    wait_until(lambda: cloud.run().step == 42)


TELLS_LATE = """
    import json, os, pathlib, sys, time
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    outputs = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])

    def tell_when_asked(name):
        while not (outputs / name).exists():
            time.sleep(0.02)
        with open(os.environ["RUNCTL_SAVED_FILE"], "a") as stream:
            stream.write(json.dumps({"step": 42}) + "\\n")

    (folder / "model.bin").write_bytes(b"1")
    print("saved", flush=True)
    tell_when_asked("once")
    while "go-on" in sys.argv:
        tell_when_asked("twice")
        time.sleep(100)
    """


def test_step_announced_after_the_snapshot_of_its_save_is_still_its_step(
    cloud: Cloud, launch
) -> None:
    """As between the rename of a save and the line that announces it, only longer."""
    machine = begin(cloud, launch, TELLS_LATE, args=("go-on",))
    wait_until(lambda: cloud.run().newest)
    assert cloud.run().step is None
    (machine.state / "output/once").touch()
    wait_until(lambda: cloud.run().step == 42)
    (machine.state / "output/twice").touch()
    time.sleep(1)
    machine.ask("drain")
    assert cloud.outcome()["step"] == 42
    assert machine.agent_log().count("committed step 42") == 1


def test_step_announced_at_the_very_end_is_the_step_of_the_run(cloud: Cloud, launch) -> None:
    machine = begin(cloud, launch, TELLS_LATE)
    wait_until(lambda: cloud.run().newest)
    (machine.state / "output/once").touch()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("completed", 42)


def test_helper_is_asked_to_save_at_the_interval_of_the_request(cloud: Cloud, launch) -> None:
    machine = begin(
        cloud,
        launch,
        """
        import json, os, pathlib, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        asked = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_REQUEST"])
        step, seen = 1, None
        print("training", flush=True)
        while True:
            (folder / "model.bin").write_bytes(str(step).encode())
            with open(os.environ["RUNCTL_SAVED_FILE"], "a") as stream:
                stream.write(json.dumps({"step": step}) + "\\n")
            step += 1
            while not asked.exists() or asked.stat().st_mtime_ns == seen:
                time.sleep(0.02)
            seen = asked.stat().st_mtime_ns
        """,
        checkpoint=CheckpointOptions(interval=1),
    )
    wait_until(lambda: (cloud.run().step or 0) >= 3)
    wait_until(lambda: "a checkpoint every 1 s: as the request says" in machine.agent_log())
    wait_until(
        lambda: (current := cloud.attempt().saving) is not None and current.every is not None
    )
    saving = cloud.attempt().saving
    assert (saving.every, saving.is_fixed) == (timedelta(seconds=1), True)
    assert (saving.size_bytes, saving.fits_notice) == (1, True)
    assert saving.bytes_per_second is None  # one byte says nothing about it


def test_metrics_reach_the_ledger_and_s3(cloud: Cloud, launch) -> None:
    cloud.create_run(
        """
        import json, os, time
        with open(os.environ["RUNCTL_METRICS_FILE"], "a") as stream:
            for step in range(3):
                stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
                stream.flush()
        time.sleep(0.5)
        """
    )
    cloud.open_attempt()
    cloud.give_token()
    launch()
    cloud.outcome()
    assert cloud.attempt().progress_step == 2
    assert cloud.attempt().metrics == {"step": 2.0, "loss": 1 / 3}
    assert "first_step" in cloud.attempt().timeline
    chunks = [cloud.read(key) for key in cloud.keys("runs/run-1/metrics/0001/")]
    assert len(b"".join(chunks).splitlines()) == 3


def test_trainer_sees_its_contract_and_nothing_of_the_agent(cloud: Cloud, launch) -> None:
    cloud.create_run(
        """
        import json, os, sys
        print(json.dumps([dict(os.environ), sys.argv, sys.path, os.getcwd()]))
        """,
        args=("--epochs", "3"),
        env={"SEED": "7"},
    )
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome()["kind"] == "completed"
    environ, argv, path, cwd = json.loads(printed(machine))
    assert argv == ["train.py", "--epochs", "3"]
    assert cwd == str(machine.state / "project")
    assert environ["SEED"] == "7"
    assert environ["RUNCTL_ATTEMPT"] == "1"
    assert environ["RUNCTL_RESUME_STEP"] == ""
    assert not [name for name in environ if name.startswith("AWS_")]
    assert not {"RUNCTL_BUCKET", "RUNCTL_TABLE"} & environ.keys()
    assert not [entry for entry in path if entry.startswith(str(VENV))]


def test_trainers_scope_is_stopped_only_after_the_agent_has_drained_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _path: True)
    words = scope()
    options = words[: words.index("--")]
    (before,) = [word for word in options if word.startswith("--property=Before=")]
    unit = before.rpartition("=")[2]
    # The name that the instance gives to the agent's unit.
    assert f"$units/{unit}" in (PROJECT / "instance_scripts/bootstrap.sh").read_text()


def test_trainer_has_a_home_though_systemd_gives_the_agent_none() -> None:
    assert base_environment({})["HOME"] == pwd.getpwuid(os.getuid()).pw_dir
    assert base_environment({"HOME": "/elsewhere"})["HOME"] == "/elsewhere"


def test_script_missing_from_the_archive_fails_the_run_with_its_name(cloud: Cloud, launch) -> None:
    cloud.create_run("", script="other.py")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "script: 'other.py' is not in the code archive" in outcome["reason"]


def test_uri_of_a_single_script_is_enough(cloud: Cloud, launch) -> None:
    cloud.clients["s3"].put_object(Bucket=cloud.name, Key="scripts/hello.py", Body=b"print('hi')")
    cloud.create_run("", script=f"s3://{cloud.name}/scripts/hello.py", code="")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    assert cloud.outcome()["kind"] == "completed"


def test_checkpoint_folder_inside_the_project_is_watched_and_restored(cloud: Cloud, launch) -> None:
    options = CheckpointOptions(dir="out/checkpoints")
    machine = begin(
        cloud,
        launch,
        AWARE.replace('os.environ["RUNCTL_CHECKPOINT_DIR"]', '"out/checkpoints"'),
        checkpoint=options,
    )
    machine.metadata.give_notice(60)
    step = cloud.outcome()["step"]
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    wait_until(lambda: started(second))
    assert printed(second).startswith(f"from {step} ['step-{step}.bin']")


def test_throttled_heartbeats_and_reports_are_repeated(cloud: Cloud, launch) -> None:
    cloud.tokens.failures = [500, 503]
    cloud.create_run("print('hello')")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    assert cloud.outcome()["kind"] == "completed"


def test_notice_before_the_token_is_reported_once_the_token_is_there(cloud: Cloud, launch) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    machine = launch()
    wait_until(lambda: list(machine.state.glob("environments/*/ready")))
    machine.metadata.give_notice(60)
    wait_until(lambda: "EC2 takes the instance" in machine.agent_log())
    cloud.give_token()
    assert cloud.outcome()["kind"] == "interrupted"
    assert machine.wait() == 0
    assert not machine.shut_down
    assert not started(machine)


def test_agent_that_fails_repeatedly_reports_it_and_ends_the_instance(cloud: Cloud, launch) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: started(machine))
    machine.kill_agent()
    # A folder in place of a file: an unexpected failure.
    (machine.root / "run/runctl/saved.jsonl").unlink(missing_ok=True)
    (machine.root / "run/runctl/saved.jsonl").mkdir()
    for _ in range(2):
        machine.start()
        assert machine.wait() == 1
        assert not machine.shut_down
    machine.start()
    assert machine.wait() == 0
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert outcome["reason"].startswith("the agent failed 3 times")
    assert machine.shut_down


def test_trainer_that_a_shutdown_ends_first_is_interrupted_and_not_failed(
    cloud: Cloud, launch
) -> None:
    machine = begin(
        cloud, launch, "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    )
    os.kill(int(printed(machine)), signal.SIGTERM)
    machine.process.send_signal(signal.SIGTERM)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["reason"]) == ("interrupted", "the instance is shutting down")


def test_trainer_that_saves_and_exits_0_in_a_shutdown_is_not_completed(
    cloud: Cloud, launch
) -> None:
    machine = begin(
        cloud,
        launch,
        """
        import os, pathlib, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        for number in range(300):  # so that the agent has something to do after the exit
            (pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"]) / str(number)).write_text("so far")
        print(os.getpid(), flush=True)
        signal.pause()
        """,
    )
    os.kill(int(printed(machine)), signal.SIGTERM)
    wait_until(lambda: "exited by itself with 0" in machine.agent_log())
    machine.process.send_signal(signal.SIGTERM)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["reason"]) == ("interrupted", "the instance is shutting down")


def test_line_of_any_length_reaches_the_log_with_every_character(cloud: Cloud, launch) -> None:
    cloud.create_run("""
        import sys

        sys.stdout.write("a" + "é" * 600_000 + "\\n")
        for state in range(792):
            sys.stdout.write(f"\\r{state}/791")
    """)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome()["kind"] == "completed"
    machine.wait()
    joiner: Joiner[None] = Joiner()
    lines = [joiner.join(None, event) for event in cloud.log("run-1/0001-000")]
    line, *bar = [line[1] for line in lines if line]
    assert line == "a" + "é" * 600_000
    assert bar[-1] == "791/791"
    assert len(bar) < 20


def test_log_is_not_shipped_twice_when_the_agent_starts_again(cloud: Cloud, launch) -> None:
    machine = begin(cloud, launch, AWARE)
    wait_until(lambda: cloud.log("run-1/0001-000"))
    wait_until((machine.state / "log/trainer.out.shipped").exists)
    machine.kill_agent()
    machine.start()
    wait_until(lambda: len(printed(machine).splitlines()) == 2)
    machine.metadata.give_notice(60)
    cloud.outcome()
    machine.wait()
    assert sum(line.startswith("from 0") for line in cloud.log("run-1/0001-000")) == 2
