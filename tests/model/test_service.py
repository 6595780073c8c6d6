"""The state of a server is read back as it was written, and anything else is nothing."""

from datetime import datetime, timezone

import pytest

from runctl.model.service import Service

SERVICE = Service(
    port=8080, is_ready=True, since=datetime(2030, 1, 1, tzinfo=timezone.utc), restarts=2
)


def test_it_is_read_back_as_it_was_written():
    assert Service.from_document(SERVICE.as_document()) == SERVICE
    assert Service.from_document({**SERVICE.as_document(), "new": 1}) == SERVICE


@pytest.mark.parametrize(
    "change",
    [
        {"port": "8080"}, {"port": None}, {"is_ready": 1}, {"since": "soon"}, {"since": None},
        {"since": "2030-01-01T00:00:00"}, {"restarts": "2"},
    ],
)  # fmt: skip
def test_what_another_version_wrote_otherwise_is_nothing(change):
    assert Service.from_document({**SERVICE.as_document(), **change}) is None
