"""Programs in containers of a real engine: signals, ends, files, limits, and privileges."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from runctl.agent.instance.paths import Paths
from runctl.agent.runtime.container_runtime import read_facts, remove_containers
from runctl.agent.runtime.ports import Mount
from runctl.model.errors import RequestError
from tests import docker_engine
from tests.agent.containers import Containers, make_client
from tests.agent.machine import wait_until
from tests.docker_engine import needs_engine, serving_engine

pytestmark = [needs_engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker_engine.Engine]:
    with serving_engine() as engine:
        engine.import_base("python", "python")
        yield engine


@pytest.fixture
def containers(engine: docker_engine.Engine, tmp_path: Path) -> Iterator[Containers]:
    made = Containers(engine, Paths(tmp_path / "root"))
    yield made
    made.close()


SAVES = """
    import os, signal, sys, time
    from pathlib import Path
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    print("ready", flush=True)
    while not asked:
        time.sleep(0.02)
    time.sleep(0.3)
    Path(os.environ["CHECKPOINT"], "step-1.txt").write_text("x" * len(asked))
    print("saved", flush=True)
    sys.exit(7)
"""


def stop(containers: Containers, program, *, kills: list[str] | None = None):
    """Ask a program to stop, wait for it as a drain does, and kill what is left."""
    found = [] if kills is None else kills
    program.request_stop(before_a_kill=lambda: found.append("kill"))
    wait_until(lambda: not program.is_busy())
    return program.kill()


def test_program_ends_with_its_exit_code_and_what_it_printed(containers: Containers) -> None:
    program = containers.start(
        """
        import os, sys
        print("out", os.getcwd())
        sys.stderr.write("err\\n")
        sys.exit(3)
        """
    )
    assert containers.wait_for_exit(program) == 3
    killed = program.kill()
    assert (killed.torn, killed.is_abrupt) == (frozenset(), False)
    assert containers.said() == f"out {containers.paths.project}\n"
    assert containers.paths.trainer_errors.read_text() == "err\n"
    known = program.describe_exit()
    assert (known.code, known.stopped_by, known.memory_problem) == (3, "", "")
    assert program.last_words() == "err"


def test_program_that_dies_of_a_signal_ends_by_that_signal(containers: Containers) -> None:
    program = containers.start("import os, time; time.sleep(0.5); os.kill(os.getpid(), 11)")
    assert containers.wait_for_exit(program) == -signal.SIGSEGV
    assert program.kill().is_abrupt


@pytest.mark.parametrize(
    ("dockerfile", "command"),
    [
        ("", ("python3", "train.py")),
        ('ENTRYPOINT ["sh", "run.sh"]', ()),
        ("ENTRYPOINT python3 train.py; echo done", ()),
        ('CMD ["python3", "train.py"]', ()),
        ("CMD python3 train.py && echo done", ()),
        ('ENTRYPOINT ["sh", "prepare.sh"]', ("python3", "train.py")),
        ('ENTRYPOINT ["sh", "prepare.sh"]\nCMD ["python3", "train.py"]', ()),
        ("ENTRYPOINT sh -c 'python3 train.py | cat'", ()),
    ],
)
def test_sigterm_reaches_the_trainer_past_any_entry_point_once(
    containers: Containers, dockerfile: str, command: tuple[str, ...]
) -> None:
    """A shell as the entry point would keep the engine's own SIGTERM to itself."""
    image = containers.build(
        f"FROM python\nWORKDIR /workspace\nCOPY . .\n{dockerfile}\n",
        **{
            "train.py": SAVES,
            "run.sh": "python3 train.py\necho the script continues\n",
            "prepare.sh": 'export PREPARED=1\nexec "$@"\n',
        },
    )
    program = containers.run(containers.contract(*command, image=image, working_folder=""))
    containers.wait_for("ready")
    killed = stop(containers, program)
    assert "saved" in containers.said()
    assert (containers.paths.checkpoint / "step-1.txt").read_text() == "x"
    assert (killed.torn, killed.is_abrupt, killed.missed_grace) == (frozenset(), False, False)


def test_program_without_a_handler_dies_of_sigterm_and_its_open_file_is_torn(
    containers: Containers,
) -> None:
    program = containers.start(
        """
        import os, time
        from pathlib import Path
        file = Path(os.environ["CHECKPOINT"], "step-1.bin").open("wb")
        file.write(b"x"); file.flush()
        print("ready", flush=True)
        time.sleep(600)
        """
    )
    containers.wait_for("ready")
    assert program.writers() == {"step-1.bin"}
    kills: list[str] = []
    killed = stop(containers, program, kills=kills)
    assert kills == ["kill"]
    assert (program.exit_code, killed.torn) == (-signal.SIGTERM, {"step-1.bin"})
    assert killed.is_abrupt


def test_file_that_is_being_written_when_the_grace_ends_is_torn(containers: Containers) -> None:
    program = containers.start(
        """
        import os, signal, time
        from pathlib import Path
        def save(*_):
            with Path(os.environ["CHECKPOINT"], "step-2.bin").open("wb") as file:
                file.write(b"half"); file.flush()
                time.sleep(600)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        while True: time.sleep(0.05)
        """
    )
    containers.wait_for("ready")
    program.request_stop(before_a_kill=lambda: None)
    wait_until(lambda: program.writers() == {"step-2.bin"})
    killed = program.kill()
    assert killed.torn == {"step-2.bin"}
    assert killed.missed_grace
    assert program.exit_code == -signal.SIGKILL


def test_file_is_found_by_device_and_inode_whatever_path_the_container_has_for_it(
    containers: Containers,
) -> None:
    image = containers.build("FROM python\nWORKDIR /workspace\n")
    contract = containers.contract(
        "python3",
        "-c",
        "import time; file = open('/workspace/saves/a.bin', 'wb'); file.write(b'x'); "
        "file.flush(); print('ready', flush=True); time.sleep(600)",
        image=image,
        working_folder="",
    )
    assert contract.container is not None
    options = replace(
        contract.container, mounts=(Mount(containers.paths.checkpoint, "/workspace/saves"),)
    )
    program = containers.run(replace(contract, container=options))
    containers.wait_for("ready")
    assert program.writers() == {"a.bin"}


def test_writer_that_outlives_the_program_is_waited_for(containers: Containers) -> None:
    """The engine's init would end with the program, and the kernel would kill the writer."""
    program = containers.start(
        """
        import os, subprocess, sys, time
        WRITER = '''
        import sys, time
        with open(sys.argv[1], "wb") as out:
            for _ in range(20):
                out.write(b"x" * 1000); out.flush(); time.sleep(0.05)
        '''
        import textwrap
        path = os.environ["CHECKPOINT"] + "/step-10.bin"
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), path],
                         start_new_session=True)
        time.sleep(0.5)
        """
    )
    assert containers.wait_for_exit(program) == 0
    wait_until(lambda: not program.is_busy())
    killed = program.kill()
    assert killed.torn == frozenset()
    assert (containers.paths.checkpoint / "step-10.bin").stat().st_size == 20_000


def test_program_that_continues_in_the_background_is_described(containers: Containers) -> None:
    program = containers.start(
        """
        import os, time
        print("ready", flush=True)
        time.sleep(0.3)
        if os.fork():
            os._exit(0)
        time.sleep(600)
        """
    )
    assert containers.wait_for_exit(program) == 0
    assert "train.py" in program.background_process()
    program.kill()
    assert program.describe_exit().code == 0


def test_lack_of_memory_is_told_apart_from_other_kills(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.runtime.container_runtime.machine_bytes", lambda: 256 << 20)
    program = containers.start(
        """
        import time
        print("ready", flush=True)
        time.sleep(1)
        hoard = [bytearray(b"x" * (1 << 20)) for _ in range(4000)]
        """
    )
    program.observe()
    assert containers.wait_for_exit(program) == -signal.SIGKILL
    program.kill()
    known = program.describe_exit()
    assert known.memory_problem.startswith(
        "the kernel killed 1 process of the trainer for lack of memory: limit 128 MiB"
    )
    assert known.stopped_by == ""


def test_lack_of_memory_of_another_program_is_not_its_own(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.runtime.container_runtime.machine_bytes", lambda: 256 << 20)
    waits = containers.run(containers.contract("sleep", "60"))
    hoards = containers.run(
        containers.contract("python3", "-c", "[b'x' * (1 << 20 + n % 2) for n in range(4000)]")
    )
    hoards.observe()
    assert containers.wait_for_exit(hoards) == -signal.SIGKILL
    hoards.kill()
    assert "for lack of memory: limit 128 MiB" in hoards.describe_exit().memory_problem
    waits.observe()
    waits.kill()
    assert waits.describe_exit().memory_problem == ""


def test_container_that_somebody_else_kills_has_not_failed_by_itself(
    containers: Containers, engine: docker_engine.Engine
) -> None:
    program = containers.start(SAVES)
    containers.wait_for("ready")
    engine.docker("kill", engine.docker("ps", "--quiet").strip())
    assert containers.wait_for_exit(program) == -signal.SIGKILL
    program.kill()
    assert program.describe_exit().stopped_by == "the container was killed from outside"


def test_end_of_the_engine_is_told_apart_from_an_end_of_the_trainer(tmp_path: Path) -> None:
    with serving_engine() as engine:
        engine.import_base("python", "python")
        containers = Containers(engine, Paths(tmp_path / "root"))
        program = containers.start(SAVES)
        containers.wait_for("ready")
        (found,) = [
            process
            for process in psutil.process_iter(["cmdline"])
            if (process.info["cmdline"] or [""])[0] == "dockerd"
            and any(str(engine.folder) in word for word in process.info["cmdline"])
        ]
        found.kill()
        assert containers.wait_for_exit(program) == -signal.SIGKILL
        program.kill()
        reason = program.describe_exit().stopped_by or ""
        assert reason.startswith("the Docker engine ended while the trainer was running")
        containers.close()


def test_variables_reach_the_program_whatever_they_hold_and_no_command_line(
    containers: Containers,
) -> None:
    values = {
        "SECRET": "s3cr3t-0123456789",
        "LINES": "one\ntwo \u00e9\n",
        "QUOTED": "\"a\" 'b' $HOME # c",
        "LONG": "y" * 100_000,
        "DOCKER_HOST": "unix:///elsewhere",
        "EMPTY": "",
    }
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in psutil.process_iter(["cmdline"]):
                seen.update(process.info["cmdline"] or ())

    watcher = threading.Thread(target=watch)
    watcher.start()
    program = containers.start(
        """
        import json, os
        print(json.dumps({name: os.environ[name] for name in
                          ("SECRET", "LINES", "QUOTED", "LONG", "DOCKER_HOST", "EMPTY", "TOKEN")}))
        """,
        env=values,
        credentials={"TOKEN": "t0ken-0123456789"},
    )
    containers.wait_for_exit(program)
    program.kill()
    done.set()
    watcher.join()
    assert json.loads(containers.said()) == {**values, "TOKEN": "t0ken-0123456789"}
    # The whole machine was watched, so only what no other program's arguments hold is looked for.
    secrets = (values["SECRET"], values["LINES"], values["QUOTED"], "t0ken-0123456789")
    assert not [word for word in seen if any(secret in word for secret in secrets)]
    assert not list(containers.paths.runtime.glob("container*"))


def test_user_of_the_image_may_write_what_the_agent_has_restored(containers: Containers) -> None:
    checkpoint = containers.paths.checkpoint
    (checkpoint / "old").mkdir()
    (checkpoint / "old/step-1.txt").write_text("1")
    (checkpoint / "link").symlink_to("/etc/passwd")
    owner = Path("/etc/passwd").stat().st_uid
    program = containers.start(
        """
        import os
        from pathlib import Path
        root = Path(os.environ["CHECKPOINT"])
        with (root / "old/step-1.txt").open("a") as file:
            file.write("2")
        (root / "new").mkdir()
        (root / "new/step-2.txt").write_text("2")
        print(os.getuid(), os.getgid())
        """,
        user=(1234, 2345),
        image=containers.build("FROM python\nUSER 1234:2345\n"),
    )
    assert containers.wait_for_exit(program) == 0, program.last_words()
    program.kill()
    assert containers.said() == "1234 2345\n"
    assert (checkpoint / "old/step-1.txt").read_text() == "12"
    assert (checkpoint / "new/step-2.txt").read_text() == "2"
    assert Path("/etc/passwd").stat().st_uid == owner


ATTACKS = """
    import ctypes, os, socket
    from pathlib import Path
    def libc(name, *words):
        if getattr(ctypes.CDLL(None, use_errno=True), name)(*words):
            raise OSError(ctypes.get_errno(), name)
    for name in ("var/run/docker.sock", "run/docker.sock", "run/containerd/containerd.sock"):
        if Path("/", name).exists():
            print("socket", name)
    def attempt(what, act):
        try:
            act()
            print("could", what)
        except OSError:
            pass
    attempt("write an input", lambda: Path(os.environ["INPUT"], "x").write_text("x"))
    attempt("mount", lambda: libc("mount", b"none", b"/mnt", b"tmpfs", 0, None))
    attempt("read the host's memory", lambda: open("/proc/kcore", "rb").read(1))
    attempt("change the host", lambda: Path("/proc/sys/kernel/hostname").write_text("x"))
    attempt("raise", lambda: libc("setns", os.open("/proc/1/ns/net", 0), 0))
    attempt("load", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)))
    status = Path("/proc/self/status").read_text()
    print([line for line in status.splitlines() if line.startswith(("CapEff", "NoNewPrivs"))])
    print("sees", len([pid for pid in os.listdir("/proc") if pid.isdigit()]))
"""


def test_program_has_no_privileges_and_sees_nothing_of_the_machine(containers: Containers) -> None:
    program = containers.start(ATTACKS, env={"INPUT": str(containers.paths.inputs)})
    assert containers.wait_for_exit(program) == 0, program.last_words()
    program.kill()
    assert containers.said().splitlines() == [
        "['CapEff:\\t0000000000000000', 'NoNewPrivs:\\t1']",
        "sees 2",
    ]


def test_endpoint_on_the_host_is_reachable_as_for_credentials(containers: Containers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = containers.start(
            f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        )
        assert containers.wait_for_exit(program) == 0
        program.kill()


def test_missing_program_fails_with_its_name(containers: Containers) -> None:
    program = containers.run(containers.contract("no-such-program"))
    assert containers.wait_for_exit(program) == 127
    program.kill()
    assert "exec no-such-program failed: No such file" in program.last_words()


def test_container_that_the_engine_refuses_is_reported_with_its_reason(
    containers: Containers,
) -> None:
    with pytest.raises(RequestError, match=r"the container cannot be created: .*no-such-image"):
        containers.run(containers.contract("true", image="no-such-image"))


def test_container_that_an_earlier_agent_left_is_removed(
    containers: Containers, engine: docker_engine.Engine
) -> None:
    containers.start(SAVES)
    containers.wait_for("ready")
    other = Paths(containers.paths.root / "other")
    client = make_client(engine)
    assert remove_containers(client, other) == []
    assert len(remove_containers(client, containers.paths)) == 1
    assert engine.docker("ps", "--all", "--quiet") == ""


def test_init_collects_orphans_while_the_program_runs(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.runtime.container_process.REAP_EVERY", 0.0)
    monkeypatch.setattr("runctl.agent.runtime.container_process.MAX_ZOMBIES", 20)
    program = containers.start(
        """
        import os, time
        from pathlib import Path
        # Until the agent has stopped the init, it collects them at once.
        while Path("/proc/1/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        for _ in range(50):
            if not os.fork():
                if os.fork():
                    os._exit(0)
                os._exit(0)
            os.wait()
        print("ready", flush=True)
        while True:
            names = [name for name in os.listdir("/proc") if name.isdigit()]
            print("count", len(names), flush=True)
            time.sleep(0.1)
        """
    )
    containers.wait_for("ready")

    def count() -> int:
        program.writers()
        return int(containers.said().rpartition("count ")[2].split()[0])

    containers.wait_for("count 5")
    wait_until(lambda: count() < 10)
    assert program.exit_code is None


@pytest.mark.parametrize("group", ["runctl.slice/runctl-trainer.slice", "elsewhere.slice"])
def test_container_outside_the_fenced_group_is_ended_at_once(
    containers: Containers, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    monkeypatch.setattr(
        "runctl.agent.runtime.container_runtime.read_facts",
        lambda engine, paths: replace(
            read_facts(engine, paths), cgroup_parent=f"/{containers.engine.folder.name}/{group}"
        ),
    )
    if group.endswith("trainer.slice"):
        assert containers.start("import time; time.sleep(600)").exit_code is None
        return
    with pytest.raises(RequestError, match="the engine has not started it below runctl-trainer"):
        containers.start("import time; time.sleep(600)")
    assert containers.engine.docker("ps", "--quiet") == ""
