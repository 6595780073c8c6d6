"""Programs that run as the user have no keys of the kernel, whichever way they ask for them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from runctl.agent.instance import as_user
from tests.agent import without_seccomp

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start others"),
    pytest.mark.skipif(os.uname().machine not in {"x86_64", "aarch64"}, reason="another machine"),
]
UID = 64_915
# add_key, request_key, keyctl, and getpid for comparison.
CALLS = {"x86_64": (248, 249, 250, 39), "aarch64": (217, 218, 219, 172)}[os.uname().machine]
CALL = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in {CALLS}:
    print(-ctypes.get_errno() if libc.syscall(number, 0, 0, 0, 0, 0) == -1 else "done", end=" ")
"""
# The same as a program of 32 bits, which has other numbers.
CALL_I386 = """
import ctypes, mmap
# push rbx; mov eax, N; xor ebx, ebx; ... xor edi, edi; int 0x80; cdqe; pop rbx; ret
CODE = b"\\x53\\xb8%s\\x31\\xdb\\x31\\xc9\\x31\\xd2\\x31\\xf6\\x31\\xff"
CODE += b"\\xcd\\x80\\x48\\x98\\x5b\\xc3"
def call(number):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(CODE % number.to_bytes(4, "little"))
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
print(*map(call, (286, 287, 288)), call(20) > 0)
"""


def run_as_user(*command: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", "-S", *before, as_user.__file__]
    words += [str(UID), str(UID), "", as_user.OWN, *command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_key_calls_are_those_of_a_kernel_without_keys() -> None:
    done = run_as_user("/usr/bin/python3", "-c", CALL)
    assert done.stdout.split() == [str(-errno.ENOSYS)] * 3 + ["done"], done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code for x86")
def test_a_program_has_no_keys_by_the_calls_of_another_architecture() -> None:
    words = ["/usr/bin/python3", "-c", CALL_I386]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("the kernel runs no programs of 32 bits")
    done = run_as_user(*words)
    assert done.stdout.split() == [str(-errno.ENOSYS)] * 3 + ["True"], done.stderr


def test_filter_does_not_slow_a_program_down() -> None:
    done = run_as_user("cat", "/proc/self/status")
    facts = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert facts["Seccomp"] == "2"
    # Without the flag, kernels before 5.16 disable speculation in every process with a filter.
    assert "force mitigated" not in facts.get("Speculation_Store_Bypass", "")


def test_nothing_starts_where_keys_cannot_be_refused() -> None:
    done = run_as_user("echo", "started", before=(without_seccomp.__file__,))
    assert (done.stdout, done.returncode) == ("", as_user.NOT_FOUND)
    assert done.stderr == (
        "'echo' was not started: the kernel refuses what keeps programs from privileges and keys "
        "(seccomp(SECCOMP_SET_MODE_FILTER): Invalid argument); it needs a machine with another "
        "kernel, or the request `root: true`\n"
    )
