"""Calls of the kernel work with builds of Python that have no functions for them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from runctl.beneath.kernel_calls import open_memory, open_process, send_signal


def test_a_process_is_signalled_and_its_end_is_seen() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        descriptor = open_process(process.pid)
        try:
            assert not os.get_inheritable(descriptor)
            assert select.select([descriptor], [], [], 0)[0] == []
            send_signal(descriptor, signal.SIGTERM)
            assert select.select([descriptor], [], [], 60)[0] == [descriptor]
            assert process.wait() == -signal.SIGTERM
            with pytest.raises(ProcessLookupError, match="pidfd_send_signal: No such process"):
                send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)
    with pytest.raises(ProcessLookupError, match="pidfd_open: No such process"):
        open_process(process.pid)


def test_a_file_in_memory_is_not_inherited() -> None:
    with os.fdopen(open_memory("variables"), "w+b") as file:
        assert not os.get_inheritable(file.fileno())
        file.write(b"x")
        shown = Path(f"/proc/self/fd/{file.fileno()}").readlink()
        assert str(shown) == "/memfd:variables (deleted)"
