"""A packed project in S3, read as an image build would see it."""

import io
import tarfile

import boto3
import pytest

from runctl.aws.objects import S3Objects
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.model.errors import RequestError

BUCKET = "projects"


@pytest.fixture
def objects():
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return S3Objects(client, bucket=BUCKET), client


def test_the_context_of_a_packed_project_has_its_members_and_the_wanted_texts(objects, tmp_path):
    store, client = objects
    project = tmp_path / "project"
    (project / "src/empty").mkdir(parents=True)
    (project / "Dockerfile").write_text("FROM scratch\n")
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o755)
    (project / "link").symlink_to("run.sh")
    (project / "weights.bin").write_bytes(b"\xff" * 3_000_000)
    pack_project(scan_project(project), tmp_path / "code.tar.gz")
    client.upload_file(str(tmp_path / "code.tar.gz"), BUCKET, "code/a.tar.gz")
    wanted = ["Dockerfile", ".dockerignore", "weights.bin"]
    context = store.read_context(f"s3://{BUCKET}/code/a.tar.gz", texts=wanted)
    kinds = {path: member.rpartition(" ")[0] for path, member in context.members.items()}
    assert kinds == {
        "Dockerfile": "file 644",
        "run.sh": "file 755",
        "link": "link",
        "weights.bin": "file 644",
        "src/empty": "",
    }
    assert context.members["src/empty"] == "folder"
    assert context.texts == {"Dockerfile": "FROM scratch\n"}


def test_paths_of_an_archive_made_by_tar_have_no_dot(objects):
    store, client = objects
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        folder = tarfile.TarInfo(".")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        entry = tarfile.TarInfo("./Dockerfile")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"ab"))
    client.put_object(Bucket=BUCKET, Key="a.tar.gz", Body=packed.getvalue())
    context = store.read_context(f"s3://{BUCKET}/a.tar.gz", texts=["Dockerfile"])
    assert list(context.members) == ["Dockerfile"]
    assert context.texts == {"Dockerfile": "ab"}


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08 cut off"])
def test_what_is_not_an_archive_is_refused(objects, content):
    store, client = objects
    client.put_object(Bucket=BUCKET, Key="a.tar.gz", Body=content)
    with pytest.raises(RequestError, match=r"a\.tar\.gz is not a readable \.tar\.gz archive"):
        store.read_context(f"s3://{BUCKET}/a.tar.gz", texts=[])
