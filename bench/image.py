"""Images: the decision not to build, the start of a container, and pulls at a limited rate.

- The decision: 1,000 files are scanned and packed, and the archive's context is hashed, as for a
  project that has not changed. Calls of AWS are not in the figure.
- The start: the same program as a process of this machine and in a container whose image is here,
  from `start` to its first line.
- The pull: an image of random bytes, as one layer and as several, from a registry behind a proxy
  that limits each connection, as S3 and ECR do; then the start, up to the first line. With `zstd`
  on this machine, the layers are compressed with it, too, if the engine reads that.

It needs root, an engine and a registry, which `make system-packages` installs.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from runctl.agent.instance.paths import Paths
from runctl.agent.runtime.container_runtime import ContainerRuntime
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.runtime.ports import ContainerOptions, Contract, Mount, Runtime
from runctl.aws.code_archive import context_of
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.model.build_context import image_tag, wanted_texts
from runctl.model.docker_options import DockerOptions
from tests import docker_engine
from tests.docker_engine import serving_engine, serving_registry

MIB = 1 << 20
FILES = 1000
FIRST_LINE_TIMEOUT = 120
PROGRAM = ("python3", "-c", "import sys; print('first line', flush=True); sys.stdin.read()")
CHUNK_BYTES = 64 * 1024
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def decision_seconds(folder: Path) -> float:
    """Return the seconds that an unchanged project of 1,000 files needs for its tag."""
    project = folder / "project"
    for number in range(FILES):
        path = project / f"package{number % 20}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"VALUE = {number}\n" * 200)
    (project / "Dockerfile").write_text("FROM python\nCOPY . .\nCMD python3 package0/module0.py\n")
    docker = DockerOptions(dockerfile="Dockerfile")
    began = time.monotonic()
    package = pack_project(scan_project(project), folder / "project.tar.gz")
    with tarfile.open(package.path, "r|gz") as archive:
        context = context_of(archive, wanted_texts(docker.dockerfile))
    image_tag(context, docker, platform="linux/amd64")
    return time.monotonic() - began


class Machine:
    """A machine that starts the program, as its process or in a container."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder)
        self.paths.make()
        self.client = Engine(self.paths.docker_config, self.paths.docker_helpers)

    def use(self, engine: docker_engine.Engine) -> None:
        """Use an engine for containers from now on."""
        environ = {"DOCKER_HOST": engine.host, "PATH": os.environ["PATH"]}
        self.client = Engine(self.paths.docker_config, self.paths.docker_helpers, environ)

    def start_seconds(self, image: str) -> float:
        """Return the seconds from the start to the first line; `image` is empty for the host."""
        ended = threading.Event()
        runtime: Runtime
        if image:
            runtime = ContainerRuntime(self.client, self.paths, on_exit=ended.set)
        else:
            runtime = HostRuntime(on_exit=ended.set)
        runtime.open()
        self.paths.trainer_output.write_bytes(b"")
        began = time.monotonic()
        program = runtime.start(self._contract(image))
        while not self.paths.trainer_output.stat().st_size:
            if time.monotonic() - began > FIRST_LINE_TIMEOUT:
                raise TimeoutError(program.last_words())
            time.sleep(0.002)
        seconds = time.monotonic() - began
        ended.wait(FIRST_LINE_TIMEOUT)
        program.kill()
        program.close()
        runtime.close()
        return seconds

    def pull_seconds(self, address: str) -> float:
        """Return the seconds of a pull and of the start that follows it."""
        began = time.monotonic()
        self.client.stream("pull", address, on_line=lambda _line: None)
        seconds = time.monotonic() - began + self.start_seconds(address)
        self.client.call("image", "rm", "--force", address)
        self.client.call("container", "prune", "--force")
        self.client.call("image", "prune", "--all", "--force")
        return seconds

    def _contract(self, image: str) -> Contract:
        paths = self.paths
        return Contract(
            command=PROGRAM,
            environment={} if image else {"PATH": os.environ["PATH"]},
            working_folder=paths.project,
            checkpoint=paths.checkpoint,
            output=paths.trainer_output,
            errors=paths.trainer_errors,
            save_request=paths.checkpoint_request,
            grace=timedelta(0),
            container=ContainerOptions(
                image=image or "none", mounts=(Mount(paths.checkpoint, str(paths.checkpoint)),)
            ),
        )


def build_image(engine: docker_engine.Engine, folder: Path, *, mebibytes: int, layers: int) -> str:
    """Build an image of random bytes on Python, and return its tag."""
    lines = ["FROM python"]
    for number in range(layers):
        with (folder / f"part{number}").open("wb") as stream:
            for _ in range(mebibytes // layers):
                stream.write(os.urandom(MIB // 2) + bytes(MIB // 2))  # half of it is compressible
        lines.append(f"COPY part{number} /")
    (folder / "Dockerfile").write_text("\n".join(lines))
    tag = f"layers{layers}"
    engine.docker("build", "--quiet", "--tag", tag, folder)
    return tag


@contextmanager
def limited(address: str, rate: float) -> Iterator[str]:
    """Serve `address` at another one, each connection at most at `rate` bytes per second."""
    host, _, port = address.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection((host, int(port)))
                for source, target, limit in ((client, server, 0.0), (server, client, rate)):
                    threading.Thread(target=pump, args=(source, target, limit), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def pump(source: socket.socket, target: socket.socket, rate: float) -> None:
    """Pass on what `source` sends, at most at `rate` bytes per second; 0 for no limit."""
    try:
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
            if rate:
                time.sleep(len(data) / rate)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def recompress(registry: str, name: str, folder: Path) -> None:
    """Store the image `name:latest` as `name:zstd`, its layers compressed with zstd."""
    base = f"http://{registry}/v2/{name}"
    request = urllib.request.Request(f"{base}/manifests/latest", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request) as answer:
        manifest: dict[str, Any] = json.load(answer)
    for layer in manifest["layers"]:
        with urllib.request.urlopen(f"{base}/blobs/{layer['digest']}") as answer:
            (folder / "layer.gz").write_bytes(answer.read())
        unpacked = subprocess.run(
            ["gzip", "-dc", str(folder / "layer.gz")], capture_output=True, check=True
        )
        packed = subprocess.run(
            ["zstd", "-3", "-c"], input=unpacked.stdout, capture_output=True, check=True
        ).stdout
        layer["digest"] = f"sha256:{hashlib.sha256(packed).hexdigest()}"
        layer["size"] = len(packed)
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
        begin = urllib.request.Request(f"{base}/blobs/uploads/", method="POST")
        with urllib.request.urlopen(begin) as answer:
            where = answer.headers["Location"]
        send(f"{where}&digest={layer['digest']}", packed, "application/octet-stream")
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    send(f"{base}/manifests/zstd", json.dumps(manifest).encode(), manifest["mediaType"])


def send(url: str, body: bytes, kind: str) -> None:
    """Put a body at a URL of the registry."""
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": kind})
    urllib.request.urlopen(request).close()


def pulls(
    engine: docker_engine.Engine, machine: Machine, folder: Path, arguments: argparse.Namespace
) -> dict[str, float | None]:
    """Return the seconds from a pull to the first line by the kind of image, None if unreadable."""
    found: dict[str, float | None] = {}
    with (
        serving_registry() as registry,
        limited(registry.address, arguments.rate * MIB) as address,
    ):
        for layers in arguments.layers:
            context = folder / f"context{layers}"
            context.mkdir()
            tag = build_image(engine, context, mebibytes=arguments.mebibytes, layers=layers)
            shutil.rmtree(context)
            engine.push(tag, registry.name(tag))
            names = [("gzip", "latest")]
            if shutil.which("zstd"):
                recompress(registry.address, tag, folder)
                names.append(("zstd", "zstd"))
            engine.docker("image", "rm", "--force", tag, registry.name(tag), "python")
            engine.docker("image", "prune", "--all", "--force")
            for kind, name in names:
                try:
                    seconds: float | None = machine.pull_seconds(f"{address}/{tag}:{name}")
                except EngineError as exc:  # an engine before Docker 23 reads no zstd
                    print(f"{kind}: {str(exc).splitlines()[-1]}", file=sys.stderr)
                    seconds = None
                found[f"{kind}, {layers} layer{'s' * (layers > 1)}"] = seconds
            engine.import_base("python", "python")
    return found


def main() -> int:
    """Print the table, or the document with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rate", type=float, default=40.0, help="MiB/s of each connection")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runctl-bench-") as name:
        folder = Path(name)
        decision = [decision_seconds(folder / str(number)) for number in range(3)]
        machine = Machine(folder / "machine")
        # Before the engine is started: the end of a program on the host ends all descendants.
        host = [machine.start_seconds("") for _ in range(arguments.rounds)]
        with serving_engine() as engine:
            engine.import_base("python", "python")
            machine.use(engine)
            container = [machine.start_seconds("python") for _ in range(arguments.rounds)]
            document: dict[str, Any] = {
                "decision_s": round(statistics.median(decision), 2),
                "host_start_s": round(statistics.median(host), 2),
                "container_start_s": round(statistics.median(container), 2),
                "pulls_s": pulls(engine, machine, folder, arguments),
                "mebibytes": arguments.mebibytes,
                "rate_mib_s": arguments.rate,
            }
    print(json.dumps(document) if arguments.json else table(document))
    return 0


def table(document: dict[str, Any]) -> str:
    """Return the figures for people."""
    extra = document["container_start_s"] - document["host_start_s"]
    lines = [
        f"{'decision not to build, 1,000 files':<44}{document['decision_s']:>8} s   aim: under 1",
        f"{'start to first line, on the host':<44}{document['host_start_s']:>8} s",
        f"{'start to first line, in a container':<44}{document['container_start_s']:>8} s",
        f"{'… more than on the host':<44}{extra:>8.2f} s   aim: at most 1",
    ]
    size, rate = document["mebibytes"], document["rate_mib_s"]
    for name, seconds in document["pulls_s"].items():
        what = f"{size} MiB at {rate:.0f} MiB/s, {name}"
        told = "not read by this engine" if seconds is None else f"{seconds:>8.2f} s"
        lines.append(f"{what:<44}{told}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
