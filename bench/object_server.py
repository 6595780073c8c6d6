"""A stand-in for S3 that is fast enough not to dominate the measurement.

`python -m bench.object_server FOLDER [SECONDS]` serves on 127.0.0.1 and prints its port; with
SECONDS, each answer is delayed by that time, as S3 takes some tens of milliseconds. Objects are
files in FOLDER, which should be a tmpfs. A body passes through one warm buffer, at half the cost of
receiving it into the file's memory map, where every page is cleared first; it is sent with
sendfile. The server checks no signatures and supports what the measured clients use: PUT, GET with
a range, HEAD, DELETE, multipart uploads, listing by prefix, and the aws-chunked coding. It ends
when its standard input does, so it never outlives the process that started it.
"""

import asyncio
import mmap
import os
import re
import socket
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

# For a head, and for a single read from a connection.
ROOM_BYTES = 1024 * 1024
# With a dash, like that of a multipart upload: no client takes it for an MD5 and computes one.
ETAG = '"00000000000000000000000000000000-1"'


class Store:
    """The index in memory; an object is a list of files, so a multipart object is never copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._objects: dict[str, dict[str, Any]] = {}

    def put(self, key: str, document: dict[str, Any]) -> None:
        self._objects[key] = {"key": key, **document}

    def get(self, key: str) -> dict[str, Any] | None:
        return self._objects.get(key)

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)

    def keys(self, prefix: str) -> list[dict[str, Any]]:
        return [self._objects[key] for key in sorted(self._objects) if key.startswith(prefix)]


class Connection(asyncio.BufferedProtocol):
    """A connection, with one request at a time."""

    def __init__(self, store: Store, delay: float) -> None:
        self._store = store
        self._delay = delay
        self._map = mmap.mmap(-1, ROOM_BYTES)
        self._room = memoryview(self._map)
        self._filled = 0
        self._file: int | None = None
        self._wanted = self._got = 0
        self._request: tuple[str, str, dict[str, str], dict[str, str]] | None = None
        self._body = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, _hint: int) -> memoryview:
        if self._file is not None:
            return self._room[: self._wanted - self._got]
        return self._room[self._filled :]

    def buffer_updated(self, count: int) -> None:
        if self._file is not None:
            self._keep(self._room[:count])
            return
        self._filled += count
        self._parse()

    def _parse(self) -> None:
        end = self._map.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            return
        lines = self._map[:end].decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query, True).items()}
        self._request = (method, unquote(url.path).lstrip("/"), query, headers)
        rest = self._room[end + 4 : self._filled]
        self._filled = 0
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wanted = int(headers.get("content-length", 0))
        if self._wanted == 0:
            self._finish()
            return
        self._body = uuid.uuid4().hex
        self._file = os.open(self._store.folder / self._body, os.O_RDWR | os.O_CREAT)
        self._keep(rest[: self._wanted])

    def _keep(self, piece: memoryview) -> None:
        assert self._file is not None
        while piece:  # a tmpfs that fills up accepts a part, and only then reports it
            count = os.pwrite(self._file, piece, self._got)
            self._got += count
            piece = piece[count:]
        if self._got == self._wanted:
            self._finish()

    def _finish(self) -> None:
        assert self._request is not None
        method, path, query, headers = self._request
        size = self._wanted
        content: bytes | None = None
        if self._file is not None:
            if "aws-chunked" in headers.get("content-encoding", "") or headers.get(
                "x-amz-content-sha256", ""
            ).startswith("STREAMING-"):
                size = self._unchunk(self._file)
            if method == "POST":
                content = os.pread(self._file, size, 0)
            os.close(self._file)
        body, self._body = self._body, ""
        self._file = None
        self._wanted = self._got = 0
        self._request = None
        asked = (method, path, query, headers, body, size, content)
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._answer, *asked)
        else:
            self._answer(*asked)

    def _unchunk(self, file: int) -> int:
        """Remove the chunk headers of aws-chunked from the body, in place."""
        at = out = 0
        with mmap.mmap(file, self._wanted) as body:
            while True:
                end = body.find(b"\r\n", at)
                size = int(body[at:end].split(b";")[0], 16)
                if size == 0:
                    return out
                at = end + 2
                body.move(out, at, size)
                out += size
                at += size + 2

    def _answer(  # noqa: C901 - one branch an operation
        self,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: str,
        size: int,
        content: bytes | None,
    ) -> None:
        store, (bucket, _, key) = self._store, path.partition("/")
        meta = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
        if method == "PUT" and "uploadId" in query:
            name = f"{query['uploadId']}/{int(query['partNumber']):06d}"
            store.put(name, {"size": size, "pieces": [[body, size]]})
            self._send(200, {"ETag": ETAG})
        elif method == "PUT" and key:
            if headers.get("if-none-match") == "*" and store.get(key):
                self._send(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            pieces = [[body, size]] if size else []
            store.put(key, {"size": size, "pieces": pieces, "meta": meta})
            self._send(200, {"ETag": ETAG})
        elif method == "PUT":
            self._send(200, {})
        elif method == "POST" and "uploads" in query:
            upload = uuid.uuid4().hex
            store.put(f"upload/{upload}", {"meta": meta})
            self._send_xml(
                "InitiateMultipartUploadResult",
                f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>",
            )
        elif method == "POST" and "uploadId" in query:
            parts = store.keys(f"{query['uploadId']}/")
            joined = [piece for part in parts for piece in part["pieces"]]
            begun = store.get(f"upload/{query['uploadId']}") or {}
            size = sum(chunk[1] for chunk in joined)
            store.put(key, {"size": size, "pieces": joined, "meta": begun.get("meta", {})})
            self._send_xml(
                "CompleteMultipartUploadResult",
                f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>{escape(ETAG)}</ETag>",
            )
        elif method == "POST" and "delete" in query:
            for key in re.findall(rb"<Key>(.*?)</Key>", content or b""):
                store.delete(key.decode())
            self._send_xml("DeleteResult", "")
        elif method == "DELETE":
            store.delete(key)
            self._send(204, {})
        elif method in {"GET", "HEAD"} and key:
            self._send_object(method, key, headers)
        elif method == "GET":
            self._list(bucket, query)
        else:
            self._send(200, {})

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        rows = "".join(
            f"<Contents><Key>{escape(listed['key'])}</Key><Size>{listed['size']}</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{escape(ETAG)}</ETag>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for listed in self._store.keys(query.get("prefix", ""))
        )
        self._send_xml(
            "ListBucketResult",
            f"<Name>{bucket}</Name><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{rows.count('<Key>')}</KeyCount>{rows}",
        )

    def _send_object(self, method: str, key: str, headers: dict[str, str]) -> None:
        found = self._store.get(key)
        if found is None:
            self._send(
                404, {}, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
            )
            return
        size, first, status = found["size"], 0, 200
        last = size - 1
        sent = {
            "ETag": ETAG,
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            "Accept-Ranges": "bytes",
            **found.get("meta", {}),
        }
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
            sent["Content-Range"] = f"bytes {first}-{last}/{size}"
            status = 206
        length = last - first + 1
        self._head_of(status, {**sent, "Content-Length": str(length)})
        if method == "GET" and length:
            self._transport.pause_reading()
            task = asyncio.get_running_loop().create_task(
                self._send_pieces(found["pieces"], first, length)
            )
            self._task = task

    async def _send_pieces(self, pieces: list[list[Any]], first: int, length: int) -> None:
        loop = asyncio.get_running_loop()
        for name, size in pieces:
            if first >= size:
                first -= size
                continue
            count = min(size - first, length)
            with (self._store.folder / name).open("rb") as stream:
                await loop.sendfile(self._transport, stream, first, count)
            length -= count
            first = 0
            if length == 0:
                break
        self._transport.resume_reading()

    def _send_xml(self, root: str, inner: str) -> None:
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{space}">{inner}</{root}>'
        self._send(200, {"Content-Type": "application/xml"}, text.encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        self._head_of(status, {**headers, **length})
        if body:
            self._transport.write(body)

    def _head_of(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in headers.items())]
        self._transport.write("\r\n".join([*lines, "", ""]).encode())


async def serve(folder: Path, delay: float) -> None:
    """Serve until standard input ends."""
    store, loop, ended = Store(folder), asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(lambda: Connection(store, delay), "127.0.0.1", 0, backlog=256)
    loop.add_reader(sys.stdin, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()


def main() -> None:
    """Serve a folder."""
    folder, delay = [*sys.argv[1:], "0"][:2]
    asyncio.run(serve(Path(folder), float(delay)))


if __name__ == "__main__":
    main()
