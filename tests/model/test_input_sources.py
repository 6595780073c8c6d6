"""Inputs: their sources, the paths of their objects, and the checksums that verify them."""

import base64
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.errors import RequestError
from runctl.model.input_sources import (
    InputSource,
    StoredObject,
    check_inputs,
    parse_input,
    place_objects,
)
from runctl.model.object_checksums import Checksum


def paths(uri: str, *keys: str, size_bytes: int = 1) -> list[str]:
    objects = [StoredObject(key, size_bytes, '"e"') for key in sorted(keys)]
    return [path for path, _ in place_objects(parse_input(uri), objects)]


@pytest.mark.parametrize(
    ("uri", "bucket", "key", "is_prefix"),
    [
        ("s3://data/cifar/", "data", "cifar/", True),
        ("s3://data/", "data", "", True),
        ("s3://data/models/resnet.pt", "data", "models/resnet.pt", False),
        ("s3://my.data-1/a b/ü.bin", "my.data-1", "a b/ü.bin", False),
    ],
)
def test_a_uri_that_ends_with_a_slash_is_a_prefix(uri, bucket, key, is_prefix):
    source = parse_input(uri)
    assert source == InputSource(bucket, key)
    assert source.is_prefix is is_prefix
    assert str(source) == uri


@pytest.mark.parametrize("uri", ["data/cifar", "s3://data", "s3:/data/a", "S3://data/a", "s3:///a"])
def test_other_uris_are_refused_with_an_example(uri):
    assert "write s3://bucket/key for an object" in check_inputs({"data": uri})


def test_objects_keep_their_keys_after_the_prefix():
    assert paths("s3://bkt/data/", "data/a.bin", "data/x/y/b.bin") == ["a.bin", "x/y/b.bin"]
    assert paths("s3://bkt/", "a.bin", "x/b.bin") == ["a.bin", "x/b.bin"]
    assert paths("s3://bkt/models/resnet.pt", "models/resnet.pt") == ["resnet.pt"]
    assert paths("s3://bkt/resnet.pt", "resnet.pt") == ["resnet.pt"]


def test_markers_of_folders_are_left_out():
    markers = ("data/", "data/x/", "data/old_$folder$")
    assert paths("s3://bkt/data/", *markers, size_bytes=0) == []
    assert paths("s3://bkt/data/", "data/old_$folder$") == ["old_$folder$"]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("data/../../etc/passwd", "'..'"),
        ("data/./a", "'.'"),
        ("data//etc/passwd", "''"),
        ("data/x/", "''"),
        ("data/a\0b", "NUL"),
        (f"data/{'ü' * 128}", "more than 255 bytes"),
    ],
)
def test_a_key_that_is_not_safe_as_a_path_is_refused(key, why):
    with pytest.raises(RequestError, match="cannot be staged") as caught:
        paths("s3://bkt/data/", key)
    assert why in str(caught.value)


def test_a_key_that_is_both_a_file_and_a_folder_is_refused():
    with pytest.raises(RequestError, match=r"'a/b' is an object and would have to be a folder"):
        paths("s3://bkt/data/", "data/a/b", "data/a/b/c/d")


@given(st.lists(st.text(st.sampled_from("ab./\0"), min_size=1, max_size=9), unique=True))
def test_every_accepted_path_stays_below_the_folder_and_no_two_collide(keys):
    try:
        found = paths("s3://bkt/", *keys)
    except RequestError:
        return
    for path in found:
        assert not {"", ".", ".."} & set(path.split("/"))
        assert not any(other.startswith(f"{path}/") for other in found)


CONTENT = bytes(range(256)) * 40
PARTS = [CONTENT[start : start + 4096] for start in range(0, len(CONTENT), 4096)]


def text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("SHA256", text(sha256(CONTENT))),
        ("SHA1", text(hashlib.sha1(CONTENT, usedforsecurity=False).digest())),
        ("CRC32", text(zlib.crc32(CONTENT).to_bytes(4, "big"))),
        ("MD5", md5(CONTENT).hex()),
        ("SHA256", f"{text(sha256(b''.join(map(sha256, PARTS))))}-{len(PARTS)}"),
        ("MD5", f"{md5(b''.join(map(md5, PARTS))).hex()}-{len(PARTS)}"),
    ],
)
def test_content_is_verified_by_each_kind_of_checksum(algorithm, value):
    checksum = Checksum.choose({algorithm: value}, size_bytes=len(CONTENT), part_bytes=4096)
    pieces = PARTS if checksum.is_of_parts else [CONTENT]

    def matches(content: list[bytes]) -> bool:
        digests = []
        for piece in content:
            digest = checksum.new()
            digest.update(piece)
            digests.append(digest.digest())
        return checksum.matches(digests)

    assert matches(pieces)
    assert not matches([*pieces[:-1], pieces[-1] + b"!"])


def test_the_strongest_usable_checksum_is_chosen():
    values = {"SHA256": "", "CRC32": "AAAA", "MD5": "ab"}
    assert Checksum.choose(values, size_bytes=1, part_bytes=0).algorithm == "CRC32"
    # Of parts whose sizes are not known, or do not add up.
    for part_bytes in (0, 4):
        found = Checksum.choose({"MD5": "ab-3"}, size_bytes=20, part_bytes=part_bytes)
        assert found == Checksum()
    assert Checksum.choose({"CRC64NVME": "AAAA"}, size_bytes=1, part_bytes=0) == Checksum()
