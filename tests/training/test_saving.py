"""A save is whole or does not exist, whatever ends it."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.place import Place, read_line

SOURCE = Path(__file__).parents[2] / "runctl/training.py"

SAVE = """
    import sys
    from runctl import training
    for step in sys.argv[1:]:
        training.save(lambda path: path.write_text(f"state {step}"), int(step), suffix=".txt")
"""
RESTORE = """
    from runctl import training
    found = training.restore()
    print(found and f"{found.step} {found.path.name}")
"""


def test_the_helper_needs_only_the_standard_library(tmp_path: Path) -> None:
    program = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('training', sys.argv[1]); "
        "m = u.module_from_spec(s); sys.modules['training'] = m; s.loader.exec_module(m); "
        "m.save(lambda path: path.write_text('x'), 1); m.report(1, loss=0.5); "
        "print(m.restore().step, m.run_id, m.attempt, m.resume_step, m.partial_dir)"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(SOURCE)]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert done.stdout == "1 local 1 None None\n"
    assert (tmp_path / "checkpoints/step-000000001").read_text() == "x"
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}


@pytest.mark.parametrize("source", [SOURCE, *(SOURCE.parent / "hooks").glob("*.py")])
def test_the_helper_is_written_for_python_39(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=(3, 9))


def test_the_helper_returns_the_values_of_the_agent(place: Place) -> None:
    program = (
        "from runctl import training as t\nprint(t.run_id, t.attempt, t.resume_step, t.partial_dir)"
    )
    given = {"RUNCTL_RESUME_STEP": "12", "RUNCTL_PARTIAL_DIR": "/partial"}
    assert place.run(program, **given) == "run-1 3 12 /partial\n"


def test_a_save_is_announced_once_it_is_in_place_and_restore_finds_it(place: Place) -> None:
    place.run(SAVE, "7", "12")
    assert place.names() == ["step-000000007.txt", "step-000000012.txt"]
    announced = [json.loads(line) for line in place.saved.read_text().splitlines()]
    assert [line["step"] for line in announced] == [7, 12]
    assert all(line["seconds"] >= 0 for line in announced)
    assert place.run(RESTORE) == "12 step-000000012.txt\n"


def test_the_folder_shows_nothing_while_a_save_is_written(place: Place) -> None:
    program = """
        from runctl import training
        def write(path):
            path.mkdir()
            (path / "weights").write_text("x")
            print([entry.name for entry in training.checkpoint_dir.iterdir()])
        training.save(write, 1)
    """
    assert place.run(program) == "[]\n"
    assert place.names() == ["step-000000001"]


def test_without_space_next_to_the_folder_a_save_is_written_inside_and_leaves_it_clean(
    place: Place,
) -> None:
    program = """
        from runctl import training
        rename = training.Path.rename
        def refuse(self, target):  # as between two mounts
            if "probe" in str(target):
                raise OSError(18, "Invalid cross-device link")
            return rename(self, target)
        training.Path.rename = refuse
        def write(path):
            print(path.parent.parent == training.checkpoint_dir)
            path.write_text("x")
        training.save(write, 1)
    """
    assert place.run(program) == "True\n"
    assert place.names() == ["step-000000001"]


def test_keep_removes_the_oldest_before_the_save_is_announced(place: Place) -> None:
    program = """
        from runctl import training
        for step in range(5):
            training.save(lambda path: path.mkdir(), step, keep=2)
    """
    place.run(program)
    assert place.names() == ["step-000000003", "step-000000004"]


@pytest.mark.parametrize(
    "make", ["path.write_text(word)", "(path.mkdir(), (path / 'x').write_text(word))"]
)
def test_two_saves_of_one_step_leave_the_second(place: Place, make: str) -> None:
    program = f"""
        from runctl import training
        for word in ("first", "second", "third"):
            training.save(lambda path: {make}, 5)
        found = training.restore().path
        print((found / "x" if found.is_dir() else found).read_text(), len(training.checkpoints()))
    """
    assert place.run(program) == "third 1\n"


def test_a_step_saved_again_more_often_than_there_are_letters_still_ends_newest(
    place: Place,
) -> None:
    program = """
        from runctl import training
        for word in range(60):
            training.save(lambda path: (path.mkdir(), (path / str(word)).touch()), 5)
            assert [entry.name for entry in training.restore().path.iterdir()] == [str(word)]
        print(len(training.checkpoints()))
    """
    assert place.run(program) == "1\n"


def test_a_writer_may_add_its_own_suffix(place: Place) -> None:
    program = """
        from runctl import training
        training.save(lambda path: path.with_suffix(".npz").write_text("x"), 5)
    """
    place.run(program)
    assert place.run(RESTORE) == "5 step-000000005.npz\n"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        ("lambda path: None", "write(path) created nothing"),
        ("lambda path: 1 / 0", "division by zero"),
        (
            "lambda path: (path.touch(), (path.parent / 'more').touch())",
            "created more, step-000000002",
        ),
    ],
)
def test_a_save_that_fails_is_reported_and_leaves_the_previous_one(
    place: Place, write: str, message: str
) -> None:
    place.run(SAVE, "1")
    program = f"from runctl import training\ntraining.save({write}, 2)"
    process = place.start(program)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("runctl.training.SaveError: step 2 was not saved to ")
    assert last.endswith("; the previous checkpoint stays valid")
    assert message in last
    assert place.names() == ["step-000000001.txt"]


def test_a_full_disk_is_reported_and_leaves_the_previous_save(place: Place) -> None:
    program = """
        import resource
        from runctl import training
        training.save(lambda path: path.write_bytes(b"x" * 1000), 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            training.save(lambda path: path.write_bytes(b"x" * 1_000_000), 2)
        except training.SaveError as exc:
            print(exc)
    """
    output = place.run(program)
    assert "step 2 was not saved" in output
    assert "File too large" in output
    assert place.names() == ["step-000000001"]


def test_report_that_cannot_be_written_ends_no_training_even_if_stderr_is_full_too(
    place: Place,
) -> None:
    program = """
        import os, sys
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ["RUNCTL_METRICS_FILE"] = "/dev/full"
        from runctl import training
        training.report(1, loss=0.5)
        print("it goes on", flush=True)
        os._exit(0)
    """
    assert place.run(program) == "it goes on\n"


SLOW = """
    import sys, time
    from runctl import training
    training.save(lambda path: path.write_text("old"), 1)
    def write(path):
        path.mkdir()
        (path / "half").write_text("half")
        print("writing", flush=True)
        sys.stdin.readline()
        (path / "whole").write_text("whole")
    if "listen" in sys.argv:
        training.should_stop()
    training.save(write, 2)
    print("saved", training.should_stop(), flush=True)
"""


def test_a_kill_in_the_middle_of_a_save_leaves_the_previous_one(place: Place) -> None:
    process = place.start(SLOW)
    assert read_line(process) == "writing"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert [path.name for path in place.checkpoints.iterdir()] == ["step-000000001"]
    assert place.run(RESTORE) == "1 step-000000001\n"
    assert place.names() == ["step-000000001"]  # and the leftovers of the killed one are gone
    assert [json.loads(line)["step"] for line in place.saved.read_text().splitlines()] == [1]


def test_a_kill_at_any_call_of_a_save_leaves_one_of_the_two_whole(place: Place) -> None:
    program = """
        import os, signal, sys
        from runctl import training
        def whole(number):
            def write(path):
                path.mkdir()
                for name in "ab":
                    (path / name).write_text(str(number))
            return write
        training.save(whole(1), 5, keep=1)
        calls = 0
        def count(event, arguments):
            global calls
            if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.scandir"):
                calls += 1
                if calls == int(sys.argv[1]):
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        training.save(whole(2), int(sys.argv[2]), keep=1)
        print("done", calls)
    """
    check = """
        from runctl import training
        found = training.restore()
        print({(found.path / name).read_text() for name in "ab"}, len(list(found.path.iterdir())))
    """
    kills = 0
    for step in ("5", "6"):
        for call in range(1, 200, 2):
            process = place.start(program, str(call), step)
            out, err = process.communicate(timeout=240)
            if process.returncode == 0:
                assert out.startswith("done")
                break
            assert process.returncode == -signal.SIGKILL, err
            kills += 1
            assert place.run(check) in ("{'1'} 2\n", "{'2'} 2\n")
    assert kills > 10
    assert place.names()[0].startswith("step-")
    assert len(place.names()) == 1


def test_sigterm_in_the_middle_of_a_save_lets_it_finish(place: Place) -> None:
    process = place.start(
        SLOW.replace("sys.stdin.readline()", "while not training.should_stop(): time.sleep(0.01)"),
        "listen",
    )
    assert read_line(process) == "writing"
    process.send_signal(signal.SIGTERM)
    assert read_line(process) == "saved True"
    assert process.wait(10) == 0
    assert (place.checkpoints / "step-000000002/whole").exists()


def test_only_the_first_rank_saves_and_reports_and_all_restore(place: Place) -> None:
    place.run(SAVE, "1", RANK="0")
    place.run(SAVE, "2", RANK="1")
    place.run("from runctl import training\ntraining.report(1, loss=1)", RANK="1")
    assert not place.metrics.exists()
    assert place.run(RESTORE, RANK="1") == "1 step-000000001.txt\n"


def test_a_rank_that_saves_nothing_is_not_due_again_at_once(place: Place) -> None:
    program = """
        import time
        from runctl import training
        time.sleep(0.02)
        print(training.should_save(every=0.01))
        training.save(lambda path: path.write_text("1"), 1)
        print(training.should_save(every=3600))
        print(training.checkpoint_requested())
    """
    place.request.write_text("7")
    assert place.run(program, RANK="1").split() == ["True", "False", "False"]
    assert not place.checkpoints.exists()


def test_a_request_causes_one_save(place: Place) -> None:
    program = """
        from runctl import training
        request = training.Path(training.os.environ["RUNCTL_CHECKPOINT_REQUEST"])
        def save(during=lambda: None):
            training.save(lambda path: (path.write_text("x"), during()), 1)
        seen = [training.checkpoint_requested()]
        request.write_text("one")
        seen += [training.checkpoint_requested(), training.should_save()]
        save()
        seen += [training.checkpoint_requested(), training.should_save()]
        save(during=lambda: request.write_text("two"))  # that one came too late for this save
        seen += [training.checkpoint_requested()]
        save()
        seen += [training.checkpoint_requested(), training.should_save(every=0)]
        print(seen)
    """
    expected = [False, True, True, False, False, True, False, True]
    assert place.run(program) == f"{expected}\n"


def test_metrics_are_plain_lines(place: Place) -> None:
    program = """
        from runctl import training
        class Scalar:
            def __float__(self): return 0.25
        training.report(1, loss=Scalar(), worst=float("nan"), name="x", ok=True, n=3, other=[1])
        training.report(step=2)
    """
    place.run(program)
    first, second = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    assert first == {
        "step": 1, "loss": 0.25, "worst": None, "name": "x", "ok": True, "n": 3, "other": "[1]",
    }  # fmt: skip
    assert second == {"step": 2}


def test_metrics_of_many_processes_do_not_break_each_other(place: Place) -> None:
    program = """
        from runctl import training
        for step in range(300):
            training.report(step, text="x" * 500)
    """
    for process in [place.start(program) for _ in range(3)]:
        assert process.wait(60) == 0
    lines = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    assert sorted(line["step"] for line in lines) == sorted([*range(300)] * 3)


def test_metrics_that_cannot_be_written_do_not_end_the_training(place: Place) -> None:
    program = "from runctl import training\ntraining.report(1, loss=1)\nprint('on')"
    assert place.run(program, RUNCTL_METRICS_FILE=os.devnull + "/x") == "on\n"
