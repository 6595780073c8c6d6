"""Starting a program in a machine that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": _PATH}


def command(leader: int, words: Sequence[str]) -> list[str]:
    """Return the command that runs a program beside a machine's processes.

    It is in all of their namespaces, but in none of their control groups.
    """
    return [
        *("nsenter", "--target", str(leader), "--mount", "--uts", "--ipc", "--net", "--pid"),
        *("--cgroup", "--root", "--wd", "env", "-i", f"PATH={_PATH}", "HOME=/root", *words),
    ]


def unit(
    words: Sequence[str],
    *,
    user: str = "",
    in_slice: str = "",
    seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the command that runs a program in a unit of its own, and ends as it does."""
    options = ["--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"]
    options += [f"--setenv={name}={value}" for name, value in (environment or {}).items()]
    # As with cloud-final.service, what the program leaves running stays.
    options += ["--property=KillMode=process"]
    if user:
        options += [f"--uid={user}"]
    if in_slice:
        options += [f"--slice={in_slice}"]
    if seconds is not None:
        options += [f"--property=RuntimeMaxSec={seconds}"]
    return ["systemd-run", *options, "--", *words]
