"""The end of the trainer, at a notice or by itself: which files count, and what completes a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.aws.checkpoints import CheckpointStore
from runctl.model.saving_options import CheckpointOptions
from tests.agent.machine import Cloud, Machine, wait_until

pytestmark = pytest.mark.slow

SAVES_AND_ENDS = """
    import os, signal, sys, time
    from pathlib import Path
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    step = 0
    def stop(*_):
        new = root / "new.tmp"
        new.write_text("x")
        new.rename(root / f"step-{step}.txt")
        print("saved", step, flush=True)
        if os.environ["END"] == "reraise":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        if os.environ["END"] == "interrupt":
            raise KeyboardInterrupt
        sys.exit(int(os.environ["END"]))
    signal.signal(signal.SIGTERM, stop)
    print("from", step, flush=True)
    while True:
        time.sleep(0.05)
        step += 1
"""

# Prints once it is asked to stop, then saves: a broken pipe would end it before.
SAVES_LATE = """
    import os, signal, sys, time
    from pathlib import Path
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    step = 0
    print("from", step, flush=True)
    while not asked:
        time.sleep(0.05)
        step += 1
    print("SIGTERM: saving", step, flush=True)
    time.sleep(1)
    (root / f"step-{step}.txt").write_text("x" * len(asked))
    print("saved", step, flush=True)
    sys.exit(0)
"""


def said(machine: Machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


def begin(cloud: Cloud, launch, program: str, *, first: str = "from", **request) -> Machine:
    cloud.create_run(program, **request)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: first in said(machine))
    return machine


def saved_step(machine: Machine) -> int:
    return int(said(machine).rpartition("saved ")[2].split()[0])


def files(cloud: Cloud) -> dict[str, int]:
    """Return the files of the newest checkpoint with their sizes."""
    store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id)
    manifest = store.get_manifest(cloud.run().newest or "")
    return {entry.path: entry.size_bytes for entry in manifest.entries if entry.kind == "file"}


@pytest.mark.parametrize(
    ("end", "code"),
    [("143", 143), ("reraise", -15), ("interrupt", -2), ("1", 1), ("0", 0), ("137", 137)],
)
def test_last_save_counts_however_its_program_ends_after_it(
    cloud: Cloud, launch, end: str, code: int
) -> None:
    machine = begin(cloud, launch, SAVES_AND_ENDS, env={"END": end})
    machine.metadata.give_notice(60)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("interrupted", code)
    assert cloud.run().step == saved_step(machine)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py 2>&1 | tee -a $RUNCTL_OUTPUT_DIR/log.txt",
        "exec make -s train",
        "make -s train && echo done",
        "script -qc 'python train.py' $RUNCTL_OUTPUT_DIR/log.txt",
        "echo train.py | xargs python",
        "setsid -w python train.py",
        "exec python launch.py",
    ],
)
def test_only_the_program_behind_a_launcher_is_signalled_and_its_save_counts(
    cloud: Cloud, launch, line: str
) -> None:
    files = {
        "run.sh": f"#!/bin/bash\n{line}\n",
        "Makefile": "train:\n\tpython train.py\n",
        "launch.py": "import subprocess, sys; sys.exit(subprocess.call(['python', 'train.py']))",
    }
    machine = begin(cloud, launch, SAVES_LATE, files=files, script="run.sh")
    machine.metadata.give_notice(60)
    assert cloud.outcome()["kind"] == "interrupted"
    step = saved_step(machine)
    assert cloud.run().step == step
    assert (machine.checkpoint / f"step-{step}.txt").read_text() == "x"  # signalled once


RANKS = """
    import multiprocessing, os, signal, time
    from pathlib import Path
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    def rank(number):
        asked, step = [], 0
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        print("from", step, flush=True)
        while not asked:
            time.sleep(0.05)
            step += 1
        time.sleep(number)
        (root / f"rank-{number}.txt").write_text("x")
        if number == 1:
            (root / "step-7.txt").write_text("x")
    if __name__ == "__main__":
        ranks = [multiprocessing.Process(target=rank, args=(number,)) for number in range(2)]
        [process.start() for process in ranks]
        [process.join() for process in ranks]
"""


def test_ranks_that_a_parent_without_a_handler_spawned_are_asked_and_waited_for(
    cloud: Cloud, launch
) -> None:
    machine = begin(cloud, launch, RANKS)
    wait_until(lambda: said(machine).count("from") == 2)
    machine.metadata.give_notice(60)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"], outcome["step"]) == ("interrupted", 0, 7)
    assert set(files(cloud)) == {"rank-0.txt", "rank-1.txt", "step-7.txt"}


# Leaves its last save to a process that outlives it and has not started when it exits.
IN_BACKGROUND = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    WRITER = '''
    import sys, time
    with open(sys.argv[1], "wb") as out:
        for _ in range(20):
            out.write(b"x" * 1000); out.flush(); time.sleep(0.1)
    '''
    def save(*_):
        path = str(root / "step-10.bin")
        subprocess.Popen([sys.executable, "-c", WRITER, path], start_new_session=True)
        time.sleep(float(os.environ["PAUSE"]))
        sys.exit(int(os.environ.get("CODE", 0)))
    signal.signal(signal.SIGTERM, save)
    print("from 0", flush=True)
    if os.environ["BY"] == "itself":
        save()
    time.sleep(600)
"""


@pytest.mark.parametrize("pause", ["0", "0.8"])
@pytest.mark.parametrize("by", ["itself", "notice"])
def test_writer_that_outlives_the_trainer_is_waited_for(
    cloud: Cloud, launch, by: str, pause: str
) -> None:
    machine = begin(cloud, launch, IN_BACKGROUND, env={"BY": by, "PAUSE": pause})
    if by == "notice":
        machine.metadata.give_notice(60)
    assert cloud.outcome()["kind"] == ("completed" if by == "itself" else "interrupted")
    assert files(cloud) == {"step-10.bin": 20_000}
    assert "waiting for" in machine.agent_log()


def test_writer_that_exceeds_the_grace_is_torn_although_the_trainer_exited_with_0(
    cloud: Cloud, launch
) -> None:
    machine = begin(
        cloud,
        launch,
        IN_BACKGROUND,
        env={"BY": "notice", "PAUSE": "0.5"},
        checkpoint=CheckpointOptions(grace_seconds=1),
    )
    machine.metadata.give_notice(60)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("interrupted", 0)
    assert cloud.run().newest is None
    assert len(cloud.keys("runs/run-1/checkpoints/partial/")) == 1


DAEMON = """
    import os, sys, time
    from pathlib import Path
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    (root / "step-1.txt").write_text("x")
    print("from 0", flush=True)
    if "--daemon" in sys.argv and os.fork():
        os._exit(0)
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize(
    "request_",
    [
        {"args": ("--daemon",)},
        {"script": "run.sh", "files": {"run.sh": "nohup python train.py &\n"}},
        {"script": "run.sh", "files": {"run.sh": "setsid python train.py > log 2>&1 &\nsleep 2\n"}},
    ],
)
def test_trainer_that_continues_in_the_background_has_not_completed(
    cloud: Cloud, launch, request_
) -> None:
    cloud.create_run(DAEMON, **request_)
    cloud.open_attempt()
    cloud.give_token()
    launch()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"], outcome["step"]) == ("failed", 0, 1)
    assert "train.py" in outcome["reason"]
    assert "run it in the foreground" in outcome["reason"]


def test_helper_of_a_script_is_not_mistaken_for_its_trainer(cloud: Cloud, launch) -> None:
    helper = "import time\nwhile True: time.sleep(1)\n"
    script = "python helper.py &\nexec -a tensorboard sleep 600 &\nsleep 11\npython train.py\n"
    program = "import os; open(os.environ['RUNCTL_CHECKPOINT_DIR'] + '/step-3.txt', 'w').close()"
    cloud.create_run(program, files={"helper.py": helper, "run.sh": script}, script="run.sh")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    assert cloud.outcome(60)["kind"] == "completed"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees who sends a signal")


@needs_root
def test_helper_of_a_short_training_is_not_mistaken_for_it(cloud: Cloud, launch) -> None:
    helper = "import time\nwhile True: time.sleep(1)\n"
    program = "import time; time.sleep(1)"
    script = "python helper.py &\nsleep 0.5\npython train.py\necho done\n"
    cloud.create_run(program, files={"helper.py": helper, "run.sh": script}, script="run.sh")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    assert cloud.outcome(60)["kind"] == "completed"


FAILS = """
    import sys, time
    print("from 0", flush=True)
    time.sleep(1)
    sys.exit(3)
"""


@needs_root
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("python train.py 2>&1 | tee $RUNCTL_OUTPUT_DIR/log", 3),
        ("(python train.py; exit $?) | cat | tee $RUNCTL_OUTPUT_DIR/log", 3),
        ("bash -c 'python train.py | cat'; true", 3),
        ("python train.py | cat; sleep 0.5; python -c 'import time; time.sleep(1)'; true", 0),
        ("python train.py; true", 0),
        ("yes | head -n 1; true", 0),
    ],
)
def test_trainer_that_fails_before_a_pipe_has_failed(
    cloud: Cloud, launch, line: str, code: int
) -> None:
    cloud.create_run(FAILS, files={"run.sh": f"#!/bin/bash\n{line}\n"}, script="run.sh")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    outcome = cloud.outcome()
    assert outcome["exit_code"] == code
    assert outcome["kind"] == ("failed" if code else "completed")
    if code:
        assert outcome["reason"].startswith("train.py exited with 3; the shell reported")


ENDS_WELL = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    def stop(*_):
        (root / "step-5.txt").write_text("x")
        sys.exit(int(os.environ.get("CODE", 0)))
    signal.signal(signal.SIGTERM, stop)
    print("from", os.getpid(), flush=True)
    if os.environ.get("SENDS") == "itself":
        os.kill(os.getpid(), signal.SIGTERM)
    if os.environ.get("SENDS") == "its child":
        subprocess.run([f"kill {os.getpid()}"], shell=True)
    time.sleep(600)
"""


@needs_root
@pytest.mark.parametrize("code", ["0", "143", "1"])
def test_end_after_a_foreign_sigterm_is_an_interruption(cloud: Cloud, launch, code: str) -> None:
    machine = begin(cloud, launch, ENDS_WELL, env={"CODE": code})
    os.killpg(int(said(machine).split()[1]), signal.SIGTERM)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("interrupted", 5)
    assert outcome["reason"].startswith("somebody sent SIGTERM to the trainer")
    assert f"(process {os.getpid()})" in outcome["reason"]


@needs_root
@pytest.mark.parametrize(
    "request_",
    [
        {"env": {"SENDS": "itself"}},
        {"env": {"SENDS": "its child"}},
        {"script": "run.sh", "files": {"run.sh": "timeout 2 python train.py; true\n"}},
        {
            "script": "run.sh",
            "files": {"run.sh": "python train.py & sleep 2\n/bin/kill $!\nwait $!\n"},
        },
    ],
)
def test_sigterm_from_the_trainers_own_processes_does_not_count_as_foreign(
    cloud: Cloud, launch, request_
) -> None:
    begin(cloud, launch, ENDS_WELL, **request_)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("completed", 5)


HOARDS = """
    import os, subprocess, sys, time
    print("from 0", flush=True)
    if os.environ["WHO"] == "itself":
        hoard = [bytearray(b"x" * (1 << 20)) for _ in range(4000)]
    code = "hoard = [bytearray(b'x' * (1 << 20)) for _ in range(4000)]"
    print("child", subprocess.run([sys.executable, "-c", code]).returncode, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A memory group of this test with a limit, where version 1 of control groups is mounted."""
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        pytest.skip("limits of memory need root and control groups of version 1")
    own = next(
        line.split(":", 2)[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.split(":")[1] == "memory"
    )
    group = Path(f"/sys/fs/cgroup/memory{own}/runctl-test-{os.getpid()}")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(400 << 20))
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.parametrize("who", ["itself", "a child"])
def test_lack_of_memory_is_reported_with_its_numbers(
    cloud: Cloud, launch, memory_group: Path, who: str
) -> None:
    cloud.create_run(HOARDS, env={"WHO": who})
    cloud.open_attempt()
    cloud.give_token()
    enter = f'echo $$ > {memory_group}/cgroup.procs; exec "$@"'
    machine = launch(under=("sh", "-c", enter, "sh"))
    sentence = "the kernel killed 1 process of the trainer for lack of memory: limit 400 MiB"
    if who == "itself":
        outcome = cloud.outcome()
        assert (outcome["kind"], outcome["exit_code"]) == ("failed", -9)
        assert sentence in outcome["reason"]
        assert "; the machine has " in outcome["reason"]
    else:
        wait_until(lambda: sentence in (cloud.attempt().warning or ""))
        wait_until(lambda: "child -9" in said(machine))
        assert cloud.tokens.reports == []


def test_final_save_that_exceeds_the_grace_is_counted(cloud: Cloud, launch) -> None:
    program = SAVES_LATE.replace("time.sleep(1)", "time.sleep(60)")
    machine = begin(cloud, launch, program, checkpoint=CheckpointOptions(grace_seconds=1))
    machine.metadata.give_notice(60)
    assert cloud.outcome()["exit_code"] == -9
    saving = cloud.attempt().saving
    assert saving is not None
    assert saving.missed_grace == timedelta(seconds=1)
