"""A trainer that only waits, for tests of what happens around it."""

from tests.e2e.testbed import Testbed

WAITER = "import os, time\ntime.sleep(float(os.environ['SECONDS_TO_WAIT']))\n"


def start_sleeper(testbed: Testbed, name: str, seconds: float = 600) -> str:
    """Start a run whose trainer waits for `seconds`, and return its id."""
    code = testbed.upload_project({"train.py": WAITER})
    env = {"SECONDS_TO_WAIT": str(seconds)}
    return testbed.start({"script": "train.py", "code": code, "env": env}, name=name)
