"""`runctl aws serve`: the request of a service, and what its status page shows."""

import socket

import pytest

from runctl.model.node import NodeId, NodeProgress
from runctl.model.outcome import RunStatus
from runctl.model.service import Service
from runctl.model.serving_options import IDLE
from tests.cli.commands.test_aws_train import request_of
from tests.cli.deployed import now

CHECKPOINT = "s3://bucket/checkpoints/best.pt"
# As the roadmap prints it, without the instance.
ROADMAP = (
    "aws", "serve", "--checkpoint", CHECKPOINT, "--port", "8080", "--script", "train.py",
)  # fmt: skip


def test_the_options_become_the_request_of_a_service(project, deployed, runctl):
    deployed.put_data(CHECKPOINT)
    done = runctl(*ROADMAP, "--detach", "--name", "digits", "--probe-path", "/health")
    assert done.code == 0, done.stderr
    request = request_of(deployed, "digits")
    assert request.pop("code")
    assert request == {
        "kind": "serve",
        "script": "train.py",
        "serve": {
            "checkpoint": CHECKPOINT,
            "port": 8080,
            "probe_path": "/health",
        },
    }


def test_a_duration_has_a_unit(project, deployed, runctl):
    done = runctl(
        "aws", "serve", "--detach", "--name", "x", "--script", "train.py", "--idle-stop", "30m"
    )
    assert done.code == 0, done.stderr
    assert request_of(deployed, "x")["serve"] == {"idle_stop_seconds": 1800}


def test_arguments_for_the_server_follow_two_dashes(project, deployed, runctl):
    done = runctl("aws", "serve", "--detach", "--name", "x", "--script", "train.py", "--", "--x")
    assert done.code == 0, done.stderr
    assert request_of(deployed, "x")["args"] == ["--x"]


def test_without_a_script_the_words_are_a_command(project, deployed, runctl):
    done = runctl("aws", "serve", "--detach", "--name", "x", "uvicorn", "train:app")
    assert done.code == 0, done.stderr
    request = request_of(deployed, "x")
    assert (request["kind"], request["command"]) == ("serve", ["uvicorn", "train:app"])


def test_a_script_without_its_option_starts_nothing(project, deployed, runctl):
    done = runctl("aws", "serve", "--detach", "train.py")
    assert (done.code, deployed.executions()) == (2, [])
    assert "--script: missing; give --script train.py" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--idle-stop", "soon"), "--idle-stop: 'soon' is not a duration; write a whole number"),
        (("--idle-stop", "5s"), "--idle-stop: 5 is not a whole number from 60"),
        (("--port", "80"), "--port: 80 is not a whole number from 1024 to 65535"),
        (("--checkpoint", "best.pt"), "--checkpoint: 'best.pt' is not an S3 URI"),
        (("--probe-path", "health"), "--probe-path: 'health' is not the path of a URL"),
    ],
)
def test_an_invalid_option_starts_nothing(project, deployed, runctl, options, message):
    done = runctl("aws", "serve", "--script", "train.py", *options)
    assert (done.code, deployed.executions()) == (2, [])
    assert message in done.stderr


def test_the_settings_of_services_do_not_concern_training(project, deployed, runctl):
    (project / ".runctl.toml").write_text('[serve]\nprobe_path = "/up"\n')
    assert runctl("aws", "train", "--detach", "--name", "t", "train.py").code == 0
    assert "serve" not in request_of(deployed, "t")
    assert runctl("aws", "serve", "--detach", "--name", "s", "--script", "train.py").code == 0
    assert request_of(deployed, "s")["serve"] == {"probe_path": "/up"}


def test_the_status_page_shows_whether_a_service_is_ready(deployed, runctl):
    deployed.begin("digits", kind="serve")
    deployed.train("digits", 1)
    assert "not ready" in runctl("status", "digits").stdout
    service = Service(port=8080, is_ready=True, since=now())
    progress = NodeProgress(phase="serve", service=service)
    deployed.ledger.record_progress(NodeId("digits", 1, 0), progress, now=now())
    page = runctl("status", "digits")
    assert "ready: attempt 1 on port 8080, since" in page.stdout
    assert "checkpoint" not in page.stdout
    document = runctl("status", "digits", "--json").document
    assert document["attempts"][0]["service"] == service.as_document()


def test_connect_says_why_a_service_cannot_be_reached(deployed, runctl):
    for name, kind in (("digits", "serve"), ("mnist", "train")):
        deployed.begin(name, kind=kind)
    assert "is a run of the kind train, not a service" in runctl("aws", "connect", "mnist").stderr
    assert runctl("aws", "connect", "none").code == 4
    deployed.end("digits", RunStatus.STOPPED, "stopped by the user")
    done = runctl("aws", "connect", "digits")
    assert "digits has ended: stopped; stopped by the user; start it again with" in done.stderr


def test_a_service_that_stopped_is_not_started_for_a_port_that_is_in_use(project, deployed, runctl):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        deployed.begin("digits", kind="serve", serve={"port": port})
        deployed.end("digits", RunStatus.STOPPED, f"{IDLE} 60 s")
        done = runctl("aws", "connect", "digits")
    assert done.code == 2
    assert f"--local-port: port {port} of this machine cannot be used: Address" in done.stderr
    assert deployed.executions() == ["digits"]


def test_replicas_that_have_ended_are_resumed_by_their_own_names(deployed, runctl):
    for name in ("digits-1", "digits-2"):
        deployed.begin(name, kind="serve", serve={"replicas": 2})
        deployed.end(name, RunStatus.STOPPED, "stopped by the user")
    done = runctl("aws", "connect", "digits")
    assert "all replicas of digits have ended; start it again with" in done.stderr
    assert "`runctl resume digits-1` and `runctl resume digits-2`" in done.stderr


def test_replicas_are_runs_of_their_own_with_instance_types_of_their_own(project, deployed, runctl):
    deployed.put_data(CHECKPOINT)
    types = ",".join(f"m{number}.large" for number in (5, 6, 7)) + ",c5.large,c6i.large,r5.large"
    types = types.replace("m6.", "m6i.").replace("m7.", "m7i.")
    done = runctl(
        *ROADMAP, "--name", "digits", "--replicas", "2", "--instance-types", types, "--json"
    )
    assert done.code == 0, done.stderr
    assert done.document["runs"] == sorted(deployed.executions()) == ["digits-1", "digits-2"]
    requests = [request_of(deployed, name) for name in done.document["runs"]]
    used = [set(request.pop("instance_types")) for request in requests]
    assert [len(each) for each in used] == [3, 3]
    assert not used[0] & used[1]
    assert requests[0] == requests[1]
    assert requests[0]["serve"]["replicas"] == 2


def test_a_service_without_a_program_names_the_option(project, deployed, runctl):
    done = runctl("aws", "serve", "--port", "8080")
    assert done.code == 2
    assert "--script: missing; name the program, or give an image" in done.stderr


def test_no_replica_starts_where_the_name_of_one_is_taken(project, deployed, runctl):
    deployed.put_data(CHECKPOINT)
    deployed.begin("digits-2")
    done = runctl(*ROADMAP, "--name", "digits", "--replicas", "2", "--detach")
    assert done.code == 2
    assert "--name: a run 'digits-2' exists already; choose another name" in done.stderr
    assert (deployed.executions(), "packed" in done.stderr) == (["digits-2"], False)


def test_connect_knows_the_replicas_that_have_not_ended(deployed, runctl):
    for number in (1, 2):
        deployed.begin(f"digits-{number}", kind="serve", serve={"replicas": 2})
        deployed.end(f"digits-{number}", RunStatus.FAILED, "no model")
    assert "all replicas of digits have ended" in runctl("aws", "connect", "digits").stderr
