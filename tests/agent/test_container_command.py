"""The command that creates a container: its limits, mounts and privileges, and its words."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from runctl.agent.contract import contract_with
from runctl.agent.instance.adapters import adapter_devices
from runctl.agent.instance.paths import Paths
from runctl.agent.prepare.container import ReadyContainer
from runctl.agent.prepare.image import ReadyImage
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.runtime.container_command import (
    MachineFacts,
    cgroup_parent,
    create_words,
    is_program,
    split_variables,
)
from runctl.agent.runtime.environment import TrainerVariables
from runctl.agent.runtime.ports import ContainerOptions, Contract, Mount
from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.model.request import RunRequest
from tests.agent_settings import make_settings

GIB = 1 << 30
STATE = Path("/var/lib/runctl")


def facts(**changes: object) -> MachineFacts:
    known: dict[str, object] = {
        "memory_bytes": 64 * GIB,
        "open_files": 524_288,
        "locked_bytes": -1,
        "tasks": 500_000,
        "has_gpus": True,
        "cgroup_parent": "runctl-trainer.slice",
    }
    return MachineFacts(**{**known, **changes})


def words(
    options: ContainerOptions, *, passed: tuple[str, ...] = (), **changes: object
) -> list[str]:
    contract = Contract(
        command=("python", "train.py", "--lr", "0.1"),
        environment={},
        working_folder=STATE / "project",
        checkpoint=STATE / "checkpoint",
        output=STATE / "out",
        errors=STATE / "err",
        save_request=STATE / "request",
        grace=timedelta(0),
    )
    return create_words(
        contract,
        options,
        facts(**changes),
        state=STATE,
        env_file=Path("/run/runctl/container.env"),
        passed=dict.fromkeys(passed, "value"),
    )


def test_command_on_a_gpu_machine_is_exactly_this() -> None:
    options = ContainerOptions(
        image="sha256:0123",
        mounts=(
            Mount(STATE / "checkpoint", "/var/lib/runctl/checkpoint"),
            Mount(STATE / "input", "/var/lib/runctl/input", is_read_only=True),
        ),
        working_folder="/var/lib/runctl/project",
    )
    assert words(options, passed=("LINES",)) == [
        "create", "--pull", "never", "--init", "--log-driver", "none", "--no-healthcheck",
        "--label=runctl.state=/var/lib/runctl",
        "--network", "host",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--cgroup-parent", "runctl-trainer.slice",
        f"--memory={62 * GIB}",
        f"--shm-size={32 * GIB}",
        "--pids-limit=250000",
        "--oom-score-adj=500",
        "--ulimit=memlock=-1",
        f"--ulimit=stack={64 << 20}",
        "--ulimit=nofile=65536:524288",
        "--gpus", "all",
        "--mount", "type=bind,source=/var/lib/runctl/checkpoint,target=/var/lib/runctl/checkpoint",
        "--mount", "type=bind,source=/var/lib/runctl/input,target=/var/lib/runctl/input,readonly",
        "--env-file", "/run/runctl/container.env",
        "--env", "LINES",
        "--workdir", "/var/lib/runctl/project",
        "sha256:0123", "python", "train.py", "--lr", "0.1",
    ]  # fmt: skip


def test_machine_without_gpus_gives_none_and_image_keeps_its_folder_and_entry_point() -> None:
    found = words(ContainerOptions(image="i"), has_gpus=False, cgroup_parent="")
    assert not {"--gpus", "--workdir", "--entrypoint", "--cgroup-parent"} & set(found)


def test_adapters_are_devices_of_the_container(tmp_path: Path) -> None:
    for name in ("uverbs1", "uverbs0", "rdma_cm"):
        (tmp_path / name).touch()
    devices = adapter_devices(tmp_path)
    assert devices == (f"{tmp_path}/uverbs0", f"{tmp_path}/uverbs1")
    assert adapter_devices(tmp_path / "missing") == ()
    found = words(ContainerOptions(image="i"), adapters=devices)
    assert [word for word in found if word.startswith("--device=")] == [
        f"--device={tmp_path}/uverbs0",
        f"--device={tmp_path}/uverbs1",
    ]


def test_entry_point_that_is_a_program_is_replaced() -> None:
    found = words(ContainerOptions(image="i", replaces_entry_point=True))
    assert found[found.index("--entrypoint") :][:3] == ["--entrypoint", "", "i"]


@pytest.mark.parametrize(
    ("memory", "limit"),
    [(1 * GIB, GIB // 2), (4 * GIB, 4 * GIB - (512 << 20)), (2048 * GIB, 1984 * GIB)],
)
def test_agent_and_engine_keep_some_memory_of_machines_of_any_size(memory: int, limit: int) -> None:
    assert f"--memory={limit}" in words(ContainerOptions(image="i"), memory_bytes=memory)


@pytest.mark.parametrize(("most", "limit"), [(-1, "65536:65536"), (20_000, "20000:20000")])
def test_open_files_are_limited_as_far_as_the_machine_allows(most: int, limit: str) -> None:
    assert f"--ulimit=nofile={limit}" in words(ContainerOptions(image="i"), open_files=most)


def test_path_with_a_comma_remains_one_path() -> None:
    mount = Mount(Path("/a,b"), "/a,b")
    assert 'type=bind,"source=/a,b","target=/a,b"' in words(
        ContainerOptions(image="i", mounts=(mount,))
    )


@pytest.mark.parametrize(
    ("driver", "group"),
    [
        ("systemd", "runctl-trainer.slice"),
        ("cgroupfs", "/runctl.slice/runctl-trainer.slice"),
    ],
)
def test_container_is_below_the_slice_that_the_fence_matches(driver: str, group: str) -> None:
    assert cgroup_parent(driver) == group
    # The rule in bootstrap.sh has the path that both names lead to.
    script = (Path(__file__).parents[2] / "instance_scripts/bootstrap.sh").read_text()
    assert 'socket cgroupv2 level 2 "runctl.slice/runctl-trainer.slice"' in script


def test_variables_that_a_file_cannot_hold_are_passed_by_name() -> None:
    given = {"A": "1", "B": "x\ny", "C": "x\r", "D": "z" * 70_000, "E": "# = ' \""}
    text, passed = split_variables(given)
    assert text == "A=1\nE=# = ' \"\n"
    assert passed == {name: given[name] for name in "BCD"}


@pytest.mark.parametrize(
    ("entry_point", "expected"),
    [
        ((), False),
        (("python", "train.py"), True),
        (("/opt/conda/bin/python3.11",), True),
        (("/bin/sh", "-c", "python train.py"), True),
        (("bash", "run.sh"), False),
        (("bash", "-m", "dlc_entrypoint.sh"), False),
        (("/opt/nvidia/nvidia_entrypoint.sh",), False),
        (("tini", "--"), False),
    ],
)
def test_wrappers_are_kept_and_programs_are_replaced(
    entry_point: tuple[str, ...], expected: bool
) -> None:
    assert is_program(entry_point) is expected


def test_container_runs_as_our_user_where_the_image_would_be_root() -> None:
    ours = words(ContainerOptions(image="sha256:0123", user=(58113, 58114)))
    assert ours[ours.index("--user") + 1] == "58113:58114"
    # The image's own user keeps the groups that the image gives it.
    assert "--user" not in words(ContainerOptions(image="sha256:0123"))


def test_our_user_has_a_home_folder_in_the_container_and_that_of_the_image_has_none() -> None:
    user = TrainerUser(name="runctl-trainer", uid=58113, gid=58113, home=STATE / "home")
    paths = Paths(Path("/"))
    settings = make_settings(Path("/"))
    image = ReadyImage(image_id="sha256:0123", environment={"HOME": "/root"}, command=("run",))

    def contract(numbers: tuple[int, int], *, is_ours: bool) -> Contract:
        container = ReadyContainer(image=image, python="", user=numbers, is_ours=is_ours)
        prepared = Prepared(
            script="",
            environment=STATE,
            checkpoint=paths.checkpoint,
            container=container,
            user=user,
        )
        return contract_with(
            settings,
            RunRequest.of(command=["true"]),
            prepared,
            env={},
            credentials={},
            variables=TrainerVariables(
                run_id="run-1", attempt=1, resume_step=None, checkpoint=paths.checkpoint,
                outputs=paths.output, metrics=paths.metrics, saved=paths.saved,
                checkpoint_request=paths.checkpoint_request,
            ),
            helper=STATE / "helper",
            resumes=False,
        )  # fmt: skip

    ours, own = contract(user.owner, is_ours=True), contract((1234, 2345), is_ours=False)
    assert ours.environment["HOME"] == str(user.home)
    assert ours.environment["USER"] == "runctl-trainer"
    assert ours.container is not None
    assert ours.container.user == ours.owner == user.owner
    assert Mount(user.home, str(user.home)) in ours.container.mounts
    assert "HOME" not in own.environment
    assert own.container is not None
    assert (own.container.user, own.owner) == (None, (1234, 2345))
    assert Mount(user.home, str(user.home)) not in own.container.mounts
