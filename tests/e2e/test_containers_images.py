"""Images as people have them: a wrapper as their entry point, and several stages of a build."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker_engine import (
    Engine,
    Registry,
    needs_engine,
    needs_registry,
    serving_engine,
    serving_registry,
)
from tests.e2e.testbed import Testbed

pytestmark = [needs_engine, needs_registry, pytest.mark.e2e]

# Like those of deep-learning containers: a shell that prepares something and then runs the command
# as its child. It does not pass SIGTERM on.
ENTRY_POINT = """\
export PREPARED_BY=$(basename "$0")
"$@"
status=$?
echo "the entry point ends with $status"
exit $status
"""
WRAPPED = """\
FROM {base}
COPY start.sh /usr/local/bin/start.sh
ENTRYPOINT ["sh", "/usr/local/bin/start.sh"]
CMD ["/bin/sh"]
"""
TRAINER = """\
import os, signal, time
from pathlib import Path

folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
weights = folder / "weights.txt"
step = len(weights.read_text()) if weights.exists() else 0
print("prepared by", os.environ["PREPARED_BY"], "from", step, flush=True)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
while not asked and os.environ["RUNCTL_ATTEMPT"] == "1":
    time.sleep(0.1)
    step += 1
weights.write_text("x" * step)
print("saved", step, flush=True)
"""
TOOLS_BYTES = 20_000_000
STAGES = f"""\
FROM BASE AS builder
RUN head -c {TOOLS_BYTES} /dev/urandom > /tools && echo 'print("built by", "tools")' > /train.py

FROM BASE AS runtime
WORKDIR /app
COPY --from=builder /train.py .
CMD ["python", "train.py"]

FROM builder AS debug
CMD ["sleep", "1000"]
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        engine.import_base("python", "base")
        yield engine


@pytest.fixture(scope="module")
def registry(engine: Engine) -> Iterator[Registry]:
    """A registry without a login, which has the base image."""
    with serving_registry() as registry:
        engine.push("base", registry.name("base"))
        yield registry


def size_in(registry: Registry, repository: str) -> int:
    """Add up the bytes of an image's compressed layers."""
    request = urllib.request.Request(
        f"http://{registry.address}/v2/{repository}/manifests/latest",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return sum(layer["size"] for layer in json.load(response)["layers"])


def test_a_notice_reaches_the_trainer_past_a_wrapper_as_entry_point(
    testbed: Testbed, new_name, engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(WRAPPED.format(base="base"))
    (tmp_path / "start.sh").write_text(ENTRY_POINT)
    engine.docker("build", "--tag", "wrapped", tmp_path)
    address = registry.name("wrapped")
    digest = engine.push("wrapped", address)
    run_id = testbed.start(
        {
            "code": testbed.upload_project({"train.py": TRAINER}),
            "script": "train.py",
            "docker": {"image": address},
        },
        name=new_name(),
    )
    testbed.wait_for_training(run_id)
    testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=30)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    first, second = testbed.log(run_id, 1), testbed.log(run_id, 2)
    (saved,) = [line.split()[-1] for line in first if line.startswith("saved")]
    assert "prepared by start.sh from 0" in first
    assert f"prepared by start.sh from {saved}" in second
    assert "the entry point ends with 0" in second
    image = testbed.run(run_id).image
    assert image is not None
    assert image.digest == digest
    testbed.wait_for_no_instance(run_id)


def test_the_image_of_a_target_is_smaller_than_the_stage_that_built_it(
    testbed: Testbed, new_name, registry: Registry
) -> None:
    base = registry.name("base")
    code = testbed.upload_project({"Dockerfile": STAGES.replace("BASE", base)})
    docker = {"dockerfile": "Dockerfile", "target": "runtime"}
    run_id = testbed.start({"code": code, "docker": docker}, name=new_name())
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert "built by tools" in testbed.log(run_id, 1)
    image = testbed.run(run_id).image
    assert image is not None
    # The builder has the base and data that cannot be compressed.
    assert 0 < image.size_bytes < size_in(registry, "base") + TOOLS_BYTES // 10
    testbed.wait_for_no_instance(run_id)
