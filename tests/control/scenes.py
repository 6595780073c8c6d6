"""Runs in the initial states of the tests."""

from runctl.control.execution_start import ExecutionStart
from runctl.model.pool import Pool
from tests.control.fakes import START, World
from tests.control.steps import launch_instances, prepare_run, train

RUN = "run-1"
ARN = "arn:run-1"
# More of other runs than the policy of a session has room for.
OF_OTHER_RUNS = {f"i{n}": f"s3://bucket/runs/{'r' * 50}{n:03}/outputs/x" for n in range(20)}
REQUEST = {"command": ["train"], "instance_types": ["m5.large", "c5.large"], "max_attempts": 10}


def execution(name=RUN, started_at=START):
    return ExecutionStart(arn=f"arn:{name}", name=name, started_at=started_at)


def prepared(world: World | None = None, **request) -> World:
    world = world or World(zones=("us-east-1a", "us-east-1b"))
    prepare_run(world, execution(), {**REQUEST, **request})
    world.workflow.running.add(ARN)
    return world


def launched(world: World, number: int = 1) -> str:
    launch_instances(world, RUN, number)
    return world.ledger.find_attempt(RUN, number).instance_ids[0]


def training(world: World, number: int = 1) -> str:
    instance_id = launched(world, number)
    token = f"token-{number}"
    world.workflow.valid.add(token)
    train(world, RUN, number, token=token, execution_arn=ARN)
    return instance_id


def stray(world: World, number: int = 1) -> str:
    """Launch a machine for an attempt that has another one on record."""
    request = world.fleet.build_request(
        run_id=RUN, attempt=number, launch_try=99, pools=[Pool("m5.large", "us-east-1a", "spot")]
    )
    return world.fleet.launch(request).instance_ids[0]
