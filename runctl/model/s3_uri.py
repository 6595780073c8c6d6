"""S3 URIs: `s3://bucket/key`."""

import re

S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)", re.DOTALL)


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of a URI; raises ValueError if it is not valid."""
    match = S3_URI.fullmatch(uri)
    if match is None:
        raise ValueError(f"{uri!r} is not a valid S3 URI (s3://bucket/key)")
    return match["bucket"], match["key"]
