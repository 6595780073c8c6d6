"""Journals and core dumps of a user, which nobody with its number should read afterwards."""

from __future__ import annotations

from pathlib import Path

from runctl.agent.instance.left_records import remove_records_of

UID = 58113
BOOT = "0f1c35d3a7a34bd4a46ae0f4cd2f4a4e"
TIME = "1764551234000000"
JOURNAL = "var/log/journal/4e1b2c3d4e5f60718293a4b5c6d7e8f9"
DUMPS = "var/lib/systemd/coredump"
REMOVED = (
    f"{JOURNAL}/user-58113.journal",
    f"{JOURNAL}/user-58113@0123456789abcdef-0000000000000001-000644d2b3c4d5e6.journal",
    f"{JOURNAL}/user-58113@000644d2b3c4d5e6-0123456789abcdef.journal~",
    f"{DUMPS}/core.python3.58113.{BOOT}.1234.{TIME}.zst",
    # A name with a dot or a blank, as systemd-coredump writes it, and a dump without compression.
    f"{DUMPS}/core.python3\\x2e12.58113.{BOOT}.1234.{TIME}",
)
KEPT = (
    f"{JOURNAL}/system.journal",
    f"{JOURNAL}/user-581130.journal",
    f"{JOURNAL}/user-1000.journal",
    # The number of a process, and a program that is named like the user.
    f"{DUMPS}/core.sshd.0.{BOOT}.58113.{TIME}.zst",
    f"{DUMPS}/core.58113.1000.{BOOT}.1.{TIME}.zst",
    f"{DUMPS}/core",
)


def test_only_the_records_of_the_user_are_removed(tmp_path: Path) -> None:
    for name in (*REMOVED, *KEPT):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_records_of(UID, tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(KEPT)


def test_a_machine_without_records_has_none_to_remove(tmp_path: Path) -> None:
    (tmp_path / DUMPS).mkdir(parents=True)
    remove_records_of(UID, tmp_path)
    (tmp_path / DUMPS / "core.python3.58113.folder").mkdir()
    remove_records_of(UID, tmp_path)
    assert (tmp_path / DUMPS / "core.python3.58113.folder").is_dir()
