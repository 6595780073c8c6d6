"""The targets of SIGTERM: every process that handles it, wherever it is, and none that it harms."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl.agent.instance import processes
from runctl.agent.runtime.process_table import ProcessInfo
from runctl.agent.runtime.stop_targets import StopTargets, choose_targets, is_bystander
from runctl.agent.runtime.stopping import send_once, targets_of
from tests.agent.machine import end_tree, wait_until

UNAWARE = "import time; print('up', flush=True); time.sleep(600)"
AWARE = r"""
import os, signal, sys, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
print("up", flush=True)
while not got: time.sleep(0.01)
time.sleep(0.5)
os.write(1, b"signals: %d\n" % len(got))  # at once: the pipe is shared
"""
FILTER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
for line in sys.stdin: print(line)
"""
LAUNCHER = f"""#!{sys.executable}
import signal, subprocess, sys
workers = [subprocess.Popen([sys.executable, "-c", {AWARE!r}]) for _ in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [worker.terminate() for worker in workers])
[worker.wait() for worker in workers]
"""

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that end with the test, as do their descendants."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, lines: int = 1, **options: object) -> int:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, **options)
        started.append(process)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        return process.pid

    run.started = started  # type: ignore[attr-defined]
    yield run
    for process in started:
        end_tree(process.pid)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def targets(pid: int) -> list[int]:
    return sorted(targets_of(pid)[1].now)


def aware_below(pid: int) -> list[int]:
    family, _ = targets_of(pid)
    return sorted(info.pid for info in family if info.is_python and info.catches(signal.SIGTERM))


def script(tmp_path: Path, program: str, name: str = "train.py") -> Path:
    path = tmp_path / name
    path.write_text(program)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("program", [AWARE, UNAWARE])
def test_plain_trainer_is_signalled_itself(start: Start, program: str) -> None:
    pid = start(sys.executable, "-c", program)
    assert targets(pid) == [pid]


def test_children_that_handle_nothing_are_not_signalled(start: Start) -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {UNAWARE!r}])"
    pid = start(sys.executable, "-c", program)
    assert targets(pid) == [pid]


@pytest.mark.parametrize(
    "line",
    [
        "{python} {train}; true",
        "{python} {train} && echo done",
        "{python} {train} 2>&1 | tee {folder}/log; true",
        "{python} {train} | cat | grep -v nothing; true",
        "({python} {train}) & wait; true",
        "setsid {python} {train}; true",
        "setsid -w {python} {train}",
        "timeout 600 {python} {train}; true",
        "nohup nice {python} {train}; true",
        "xargs -I% {python} {train} % <<< x",
        "script -qc '{python} {train}' {folder}/typescript | cat",
        '{python} -c \'import subprocess; subprocess.run(["{python}", "{train}"])\'',
        "make -s -f {folder}/Makefile train",
        "{python} {train} | {python} {folder}/filter.py; true",
    ],
)
def test_program_is_signalled_behind_any_launcher_and_nothing_else_is(
    start: Start, tmp_path: Path, line: str
) -> None:
    train = script(tmp_path, AWARE.replace('print("up"', 'print("up", file=sys.stderr'))
    script(tmp_path, FILTER, "filter.py")
    (tmp_path / "Makefile").write_text(f"train:\n\t{sys.executable} {train}; true\n")
    words = line.format(python=sys.executable, train=train, folder=tmp_path)
    pid = start("bash", "-c", words, lines=0)

    def program() -> list[int]:
        family, _ = targets_of(pid)
        return [
            info.pid
            for info in family
            if info.words[1:2] == (str(train),) and info.catches(signal.SIGTERM)
        ]

    (found,) = wait_until(program)
    time.sleep(0.2)  # until the filters have started, too
    assert targets(pid) == [found]


@pytest.mark.parametrize("name", ["torchrun", "accelerate", "deepspeed", "mpirun"])
def test_workers_of_a_launcher_are_signalled_and_the_launcher_is_not(
    start: Start, tmp_path: Path, name: str
) -> None:
    pid = start(str(script(tmp_path, LAUNCHER, name)), lines=2)
    assert targets(pid) == sorted(processes.descendants(pid))
    assert len(targets(pid)) == 2


def test_launcher_run_as_a_module_is_known_too(start: Start, tmp_path: Path) -> None:
    package = tmp_path / "torch/distributed"
    package.mkdir(parents=True)
    (package / "run.py").write_text(LAUNCHER)
    pid = start(sys.executable, "-m", "torch.distributed.run", cwd=tmp_path, lines=2)
    assert pid not in targets(pid)


def test_workers_without_a_handler_are_signalled_when_no_other_process_handles_it(
    start: Start, tmp_path: Path
) -> None:
    program = LAUNCHER.replace(repr(AWARE), repr(UNAWARE))
    pid = start(str(script(tmp_path, program, "torchrun")), lines=2)
    assert targets(pid) == sorted(processes.descendants(pid))


def test_unknown_launcher_that_forwards_the_signal_makes_no_process_handle_it_twice(
    start: Start, tmp_path: Path
) -> None:
    pid = start(str(script(tmp_path, LAUNCHER, "our-srun")), lines=2)
    family, chosen = targets_of(pid)
    assert sorted(chosen.now) == sorted([pid, *processes.descendants(pid)])
    send_once([info for info in family if info.pid in chosen.now], family)
    (process,) = start.started  # type: ignore[attr-defined]
    assert process.stdout.read() == b"signals: 1\nsignals: 1\n"


def test_shell_with_a_trap_is_signalled_with_what_it_waits_for(start: Start) -> None:
    for program in (UNAWARE, AWARE):
        line = f"trap 'echo bye' TERM; {sys.executable} -c \"$PROGRAM\"; true"
        pid = start("bash", "-c", line, env={"PROGRAM": program})
        assert targets(pid) == sorted([pid, *processes.descendants(pid)])


@pytest.mark.parametrize("options", [(), ("-B", "-s")])  # which a fork server is started with, too
def test_ranks_are_signalled_although_their_parent_handles_nothing(
    start: Start, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    program = f"""
import multiprocessing, sys
def rank():
    exec({AWARE!r})
if __name__ == "__main__":
    ranks = [multiprocessing.get_context(sys.argv[1]).Process(target=rank) for _ in range(2)]
    [process.start() for process in ranks]
    [process.join() for process in ranks]
"""
    train = script(tmp_path, program)
    for method in ("fork", "spawn", "forkserver"):
        pid = start(sys.executable, *options, str(train), method, lines=2)
        assert targets(pid) == aware_below(pid)
        assert len(targets(pid)) == 2
        assert pid not in targets(pid)


def test_copies_that_only_inherited_the_handler_wait_for_their_parent(start: Start) -> None:
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
if os.fork():
    print("up", flush=True)
time.sleep(600)
"""
    pid = start(sys.executable, "-c", program)
    (child,) = processes.descendants(pid)
    assert targets_of(pid)[1] == StopTargets((pid,), (child,))


def test_program_that_waits_for_the_signal_instead_of_a_handler_counts(start: Start) -> None:
    program = """
import signal, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
waiter = threading.Thread(target=lambda: signal.sigwait({signal.SIGTERM}))
waiter.start()
print("up", flush=True)
waiter.join()
"""
    line = f'{sys.executable} -c "$PROGRAM" & {sys.executable} -c "$OTHER"; true'
    pid = start("bash", "-c", line, env={"PROGRAM": program, "OTHER": UNAWARE}, lines=2)
    (found,) = targets(pid)
    assert (Path("/proc") / str(found) / "cmdline").read_bytes().count(b"sigwait") == 1


def info(pid: int, parent: int, *words: str, caught: tuple[int, ...] = (), **more) -> ProcessInfo:
    bits = sum(1 << (number - 1) for number in caught)
    return ProcessInfo(pid=pid, parent=parent, words=words, caught=bits, **more)


TERM, CHLD = signal.SIGTERM, signal.SIGCHLD
FAULTS = (signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
FAULT_HANDLER = (*FAULTS, signal.SIGABRT, signal.SIGILL)


@pytest.mark.parametrize(
    ("parent", "worker", "is_loader"),
    [
        ((TERM, CHLD), (TERM, *FAULTS), True),
        ((CHLD,), (TERM, CHLD, *FAULTS), True),
        ((CHLD, *FAULT_HANDLER), (TERM, CHLD, *FAULT_HANDLER), True),
        ((), (TERM, *FAULT_HANDLER), False),  # a rank with Python's fault handler
        (FAULT_HANDLER, (TERM, *FAULT_HANDLER), False),
        ((CHLD,), (TERM,), False),
    ],
)
def test_workers_of_a_data_loader_are_known_by_what_they_handle(
    parent: tuple[int, ...], worker: tuple[int, ...], is_loader: bool
) -> None:
    family = [
        info(2, 1, "python", "train.py", caught=parent),
        info(3, 2, "python", "train.py", caught=worker, is_copy=True),
    ]
    assert is_bystander(family[1], family) is is_loader
    assert is_bystander(info(4, 2, "python", name="pt_data_worker:0"), family)


def test_services_and_runtimes_that_catch_everything_are_not_signalled() -> None:
    everything = tuple(range(1, 32))
    trainer = info(2, 1, "python", "train.py", caught=(TERM,))
    family = [
        trainer,
        info(3, 2, "/opt/wandb/bin/wandb-core", "--port", caught=everything),
        info(4, 2, "our-go-tool", caught=everything),
        info(5, 2, "/env/bin/python", "/env/bin/tensorboard", "--logdir=x", caught=(TERM,)),
        info(6, 2, "python", "-c", "from multiprocessing.forkserver import main", caught=(TERM,)),
        info(7, 2, "python", "-c", "from multiprocessing.spawn import main", caught=(TERM,)),
    ]
    assert choose_targets(family, 2).now == (2, 7)
    alone = info(2, 1, "our-go-trainer", caught=everything)
    assert choose_targets([alone], 2).now == (2,)
