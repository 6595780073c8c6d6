"""A bucket, a table and a log group by moto on 127.0.0.1, as the agent's tests have them."""

from tests.agent.conftest import cloud, endpoint

__all__ = ["cloud", "endpoint"]
