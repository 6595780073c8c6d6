"""SIGTERM is reported to a program that polls, and changes nothing for others."""

from __future__ import annotations

import signal

import pytest

from tests.training.place import Place, read_line

WAIT = """
        print("ready", flush=True)
        while not training.should_stop():
            time.sleep(0.01)
        print("stopping", flush=True)
"""


def stop(place: Place, program: str) -> list[str]:
    """Start a program, send SIGTERM once it is ready, and return its output from then on."""
    process = place.start(program)
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.split()


def test_a_program_that_polls_hears_sigterm(place: Place) -> None:
    assert stop(
        place,
        f"""
        import time
        from runctl import training
        training.should_stop()
        {WAIT}
    """,
    ) == ["stopping"]


@pytest.mark.parametrize("earlier", [True, False])
def test_the_programs_own_handler_is_called_too(place: Place, earlier: bool) -> None:
    own = "signal.signal(signal.SIGTERM, lambda *_: print('own', flush=True))"
    assert stop(
        place,
        f"""
        import signal, time
        from runctl import training
        {own if earlier else ""}
        training.should_stop()
        {"" if earlier else own}
        training.should_stop()
        {WAIT}
    """,
    ) == ["own", "stopping"]


def test_a_handler_that_calls_the_previous_one_is_not_called_forever(place: Place) -> None:
    assert stop(
        place,
        f"""
        import signal, time
        from runctl import training
        training.should_stop()
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *a: (print("own", flush=True), before(*a)))
        {WAIT}
    """,
    ) == ["own", "stopping"]


def test_a_program_that_does_not_poll_still_dies_of_sigterm(place: Place) -> None:
    process = place.start("""
        import time
        from runctl import training
        training.restore()
        training.save(lambda path: path.write_text("x"), 1)
        print("ready", flush=True)
        time.sleep(60)
    """)
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_worker_processes_can_be_ended_and_never_stop_by_themselves(place: Place) -> None:
    program = """
        import multiprocessing, os, time
        from runctl import training
        def work(ready):
            ready.put(training.should_stop())
            time.sleep(60)
        if __name__ == "__main__":
            training.should_stop()
            context = multiprocessing.get_context("fork")
            ready = context.Queue()
            for daemon in (True, False):
                worker = context.Process(target=work if daemon else time.sleep, daemon=daemon,
                                         args=(ready,) if daemon else (60,))
                worker.start()
                if daemon:
                    print(ready.get())
                worker.terminate()
                worker.join(20)
                print(worker.exitcode)
    """
    assert place.run(program).split() == ["False", "-15", "-15"]


def test_another_thread_can_ask_but_not_listen(place: Place) -> None:
    assert stop(
        place,
        """
        import threading, time
        from runctl import training
        thread = threading.Thread(target=training.should_stop)
        thread.start()
        thread.join()
        training.should_stop()
        print("ready", flush=True)
        seen = threading.Event()
        def poll():
            while not training.should_stop():
                time.sleep(0.01)
            seen.set()
        threading.Thread(target=poll, daemon=True).start()
        while not seen.wait(0.05):
            pass
        print("stopping", flush=True)
    """,
    ) == ["stopping"]


def test_after_sigterm_one_save_is_due(place: Place) -> None:
    assert stop(
        place,
        f"""
        import time
        from runctl import training
        training.should_stop()
        {WAIT}
        print(training.should_save(), flush=True)
        training.save(lambda path: path.write_text("x"), 1)
        print(training.should_save(), flush=True)
    """,
    ) == ["stopping", "True", "False"]


def test_a_rank_can_stop_because_another_has_heard_sigterm(place: Place) -> None:
    program = """
        from runctl import training
        print(training.should_stop())
        training.stop()
        print(training.should_stop())
    """
    assert place.run(program).split() == ["False", "True"]
