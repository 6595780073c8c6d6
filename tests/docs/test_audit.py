"""The audit of the locks: what it refuses, and what it does without a network."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from requirements import audit

PROJECT = Path(__file__).parents[2]
HASH = "--hash=sha256:" + "0" * 64
NOBODY = "http://127.0.0.1:9/"  # nothing listens there


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of everything that is audited."""
    for pattern in (*audit.LOCKS, "requirements/*.in", "p*.json", "pyproject.toml"):
        for path in PROJECT.glob(pattern):
            target = tmp_path / path.relative_to(PROJECT)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    return tmp_path


@contextmanager
def osv(answer: object, *, status: int = 200) -> Iterator[tuple[str, list[dict]]]:
    """Serve one answer as OSV does; yields the address, and the requests."""
    asked: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(document)
            body = answer(document["queries"]) if callable(answer) else answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()


def run(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = audit.main(["--project", str(project), *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_the_locks_of_this_project_pass_without_a_network(project, capsys):
    code, shown = run(project, capsys, "--service", NOBODY)
    assert code == 0, shown
    assert "advisories were not read" in shown
    assert len(shown.splitlines()) == 1


def test_a_scheduled_audit_fails_without_an_answer(project, capsys):
    assert run(project, capsys, "--service", NOBODY, "--online")[0] == 1


@pytest.mark.parametrize(
    ("lock", "old", "new", "problem"),
    [
        ("requirements/dev.txt", None, "evil==1.0\n", "evil has no hash"),
        ("requirements/dev.txt", None, "evil==1.0 --hash=md5:0\n", "evil has no hash"),
        ("requirements/dev.txt", None, f"evil>=1.0 {HASH}\n", "'evil>=1.0' is not pinned"),
        ("requirements/image.txt", None, "git+https://example.org/e\n", "is not pinned"),
        ("requirements/uv.txt", None, "--index-url https://example.org\n", "is not pinned"),
        ("lambdas/requirements.txt", None, f"boto3==1.0 {HASH}\n", "boto3: has different versions"),
        ("requirements/dev.in", None, "evil\n", "requirements/dev.txt: lacks evil"),
        (
            "requirements/torch.txt",
            "torch==",
            "other==",
            "requirements/frameworks.txt: lacks torch",
        ),
        ("pyproject.toml", '"rich>=14"', '"evil>=14"', "requirements/dev.txt: lacks evil"),
        ("package.json", "2.1148.1", "2.9.9", "aws-cdk 2.9.9 is not the locked version"),
        ("package-lock.json", '"integrity": "sha512-', '"integrity": "sha1-', "has no integrity"),
        (
            "package-lock.json",
            '"license": "Apache-2.0",',
            '"license": "Apache-2.0", "hasInstallScript": true,',
            "aws-cdk runs a script when it is installed",
        ),
    ],
)
def test_a_lock_with_a_hole_is_refused(project, capsys, lock, old, new, problem):
    path = project / lock
    text = path.read_text()
    assert old is None or old in text
    path.write_text(text + "\n" + new if old is None else text.replace(old, new))
    code, shown = run(project, capsys, "--service", NOBODY)
    assert code == 1
    assert problem in shown


def test_a_known_advisory_is_refused_until_it_is_fixed_or_explained(project, capsys, monkeypatch):
    def answer(queries: list[dict]) -> dict:
        return {
            "results": [
                {"vulns": [{"id": "GHSA-x"}]} if each["package"]["name"] == "boto3" else {}
                for each in queries
            ]
        }

    with osv(answer) as (service, asked):
        code, shown = run(project, capsys, "--service", service)
        assert code == 1
        assert "has the advisory GHSA-x" in shown
        (request,) = asked
        ecosystems = {each["package"]["ecosystem"] for each in request["queries"]}
        assert ecosystems == {"PyPI", "npm"}
        monkeypatch.setattr(audit, "ACCEPTED", {"GHSA-x": "a reason"})
        assert run(project, capsys, "--service", service)[0] == 0


def test_an_explanation_that_is_no_longer_needed_is_reported(project, capsys, monkeypatch):
    monkeypatch.setattr(audit, "ACCEPTED", {"GHSA-x": "a reason"})
    with osv(lambda queries: {"results": [{}] * len(queries)}) as (service, _):
        code, shown = run(project, capsys, "--service", service)
    assert code == 1
    assert "GHSA-x: accepted, but no locked package has it" in shown


@pytest.mark.parametrize(
    ("answer", "status"), [({}, 503), ({}, 200), ([], 200), ({"results": [{}]}, 200)]
)
def test_an_answer_that_is_none_counts_as_unreachable(project, capsys, answer, status):
    with osv(answer, status=status) as (service, _):
        code, shown = run(project, capsys, "--service", service)
    assert code == 0
    assert "advisories were not read" in shown


def test_more_packages_than_a_request_takes_are_asked_for_in_several(monkeypatch):
    monkeypatch.setattr(audit, "MAX_QUERIES", 2)
    packages = [
        audit.Locked(ecosystem="PyPI", name=name, version="1", lock="x") for name in "abcde"
    ]
    with osv(lambda queries: {"results": [{"vulns": [{"id": "V"}]}] * len(queries)}) as (
        url,
        asked,
    ):
        assert set(audit.find_advisories(packages, service=url)) == set(packages)
    assert [len(each["queries"]) for each in asked] == [2, 2, 1]
