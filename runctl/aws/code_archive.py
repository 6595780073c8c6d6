"""Packed projects in S3, read without unpacking them: what an image build would see of them."""

import hashlib
import posixpath
import tarfile
import zlib
from collections.abc import Collection
from typing import IO, Any, cast

from runctl.aws.errors import translated
from runctl.model.build_context import MAX_DOCKERFILE_BYTES, BuildContext
from runctl.model.errors import RequestError
from runctl.model.s3_uri import split_s3_uri

_BLOCK = 1 << 20


def read_context(client: Any, uri: str, *, texts: Collection[str]) -> BuildContext:
    """Return the context of the archive at an s3:// URI, read once, as a stream.

    The texts of the files `texts` are kept if they are UTF-8. Raises RequestError for something
    that is not an archive, TransientError if the stream breaks off.
    """
    bucket, key = split_s3_uri(uri)
    with translated():
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", body), mode="r|gz") as archive:
                return context_of(archive, texts)
        except (tarfile.TarError, zlib.error, EOFError) as exc:
            raise RequestError(f"{uri} is not a readable .tar.gz archive: {exc}") from exc
        finally:
            body.close()


def context_of(archive: tarfile.TarFile, texts: Collection[str]) -> BuildContext:
    """Return the context of an open archive."""
    members: dict[str, str] = {}
    kept: dict[str, str] = {}
    for member in archive:
        path = posixpath.normpath(member.name)  # `tar czf code.tar.gz .` writes ./train.py
        if member.isfile():
            digest, content = _digest(archive, member, keeps=path in texts)
            members[path] = f"file {member.mode & 0o777:o} {digest}"
            if content is not None:
                kept[path] = content
        elif member.issym() or member.islnk():
            members[path] = f"link {member.linkname}"
        elif member.isdir() and path != ".":
            members[path] = "folder"
    return BuildContext(members=members, texts=kept)


def _digest(
    archive: tarfile.TarFile, member: tarfile.TarInfo, *, keeps: bool
) -> tuple[str, str | None]:
    stream = archive.extractfile(member)
    digest = hashlib.sha256()
    content = b""
    while stream is not None and (block := stream.read(_BLOCK)):
        digest.update(block)
        if keeps and len(content) <= MAX_DOCKERFILE_BYTES:
            content += block
    if not keeps or len(content) > MAX_DOCKERFILE_BYTES:
        return digest.hexdigest(), None
    try:
        return digest.hexdigest(), content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return digest.hexdigest(), None
