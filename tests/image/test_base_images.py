"""The engine, registries and base images with which other tests try containers."""

from collections.abc import Iterator

import pytest

from tests.docker_engine import (
    Engine,
    needs_engine,
    needs_registry,
    serving_engine,
    serving_registry,
)

pytestmark = [needs_engine, needs_registry, pytest.mark.slow]
LOGIN = ("trainer", "a-password")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        engine.import_base("busybox", "busybox")
        yield engine


def test_the_python_base_runs_a_program_as_a_user_without_rights(engine: Engine) -> None:
    engine.import_base("python", "python")
    program = "import ctypes, lzma, os, sqlite3, ssl; print(os.getuid(), ssl.HAS_TLSv1_3)"
    run = ["run", "--rm", "--user", "65534", "python"]
    assert engine.docker(*run, "python", "-c", program).split() == ["65534", "True"]
    assert engine.docker("run", "--rm", "python", "pip", "--version").startswith("pip ")


def test_an_image_is_pulled_by_the_digest_that_its_push_reported(engine: Engine) -> None:
    with serving_registry() as registry:
        digest = engine.push("busybox", registry.name("team/tools", "1"))
        engine.docker("rmi", registry.name("team/tools", "1"))
        reference = f"{registry.address}/team/tools@{digest}"
        engine.docker("pull", reference)
        assert engine.docker("run", "--rm", reference, "echo", "hello") == "hello\n"


def test_a_registry_with_a_login_refuses_everybody_else(engine: Engine) -> None:
    with serving_registry(login=LOGIN) as registry:
        engine.docker("tag", "busybox", registry.name("tools"))
        refused = engine.attempt("push", registry.name("tools"))
        assert refused.returncode == 1
        assert "no basic auth credentials" in refused.stderr
        engine.push("busybox", registry.name("tools"), login=LOGIN)
