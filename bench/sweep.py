"""Sweeps on the local cloud: the overhead of a trial, and trials lost or run twice under kills.

The first part runs trials that sleep one second, on two instances. The overhead of a trial is the
time from the end of one trainer to the start of the next one on the same slot: what the sweep adds
to the training itself. An instance goes from trial to trial, so only the first trials boot one.

The second part kills workers without warning while they train, as often as `--kills` says. For
runctl a worker is an instance. For Optuna's JournalStorage it is one of the processes that share
the file, and for Syne Tune's local backend the process of a trial; a killed worker is replaced.
Every point of the grid has to be tried to its end exactly once. `lost` points never ended, `twice`
ended more than once, and `stuck` trials are still shown as running at the end.

`--peers PYTHON` is an interpreter that has optuna and syne-tune; without it only runctl is
measured. `--json` prints the figures as one document.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from runctl.aws.services import AwsServices
from runctl.local import daemon
from runctl.local.client import Json, LocalCloudError
from runctl.local.deploy import deploy
from runctl.local.testbed import Testbed, wait_for
from runctl.model.run import AttemptStage
from runctl.model.trial import TrialState

PROJECT = Path(__file__).parents[1]
PEERS = Path(__file__).with_name("sweep_peers.py")
MAX_OVERHEAD = 2.0
# How many trials of the calm sweep run at the same time.
SLOTS = 2
TIMEOUT = timedelta(minutes=20)
# Saves after the sleep, so that a killed trial starts again from its beginning.
TRAINER = """
import os, pathlib, sys, time
shared, seconds, point = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[4]
with open(shared / "begun", "a") as begun:
    print(point, time.time(), file=begun, flush=True)
time.sleep(seconds)
with open(shared / "ended", "a") as ended:
    print(point, time.time(), file=ended, flush=True)
"""


def sweep(
    cloud: Testbed, shared: Path, *, name: str, trials: int, instances: int, seconds: float
) -> str:
    """Start a sweep of `trials` trials."""
    shared.mkdir()
    shared.chmod(0o777)  # trials may run as a user of their own
    services = AwsServices(cloud.clients, cloud.deployment)
    program = ["python3", "-c", TRAINER, str(shared), str(seconds)]
    points = ",".join(map(str, range(trials)))
    services.sweep_workflow.start_run(
        name,
        {
            "command": program,
            "sweep": {"hyperparameters": {"point": points}, "instances": instances},
        },
    )
    return name


def wait_for_sweep(cloud: Testbed, name: str) -> None:
    """Wait until a sweep has ended."""
    services = AwsServices(cloud.clients, cloud.deployment)

    def has_ended() -> bool:
        group = services.groups.find_group(name)
        return group is not None and group.ended is not None

    wait_for(has_ended, f"{name} to end", timeout=TIMEOUT)


def instants(path: Path) -> list[tuple[str, float]]:
    """Return the points of a file in its order, each with its time."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(point, float(at)) for point, at in (line.split() for line in lines)]


def overheads(shared: Path, *, slots: int) -> list[float]:
    """Return the seconds between the end of a trial and the start of the next on its slot."""
    begun = [at for _, at in instants(shared / "begun")][slots:]
    ended = sorted(at for _, at in instants(shared / "ended"))
    return [start - end for end, start in zip(ended, sorted(begun), strict=False)]


def kill_instances(cloud: Testbed, name: str, *, kills: int) -> int:
    """Reclaim instances of training trials without a notice; return how many there were."""
    services = AwsServices(cloud.clients, cloud.deployment)
    source, done = random.Random(1), 0
    while done < kills:
        group = services.groups.find_group(name)
        if group is not None and group.ended is not None:
            break
        training = []
        for trial in services.trials.list_trials(name):
            if trial.state is TrialState.RUNNING:
                attempts = cloud.ledger.attempts(trial.run_id)
                if (
                    attempts
                    and attempts[-1].stage is AttemptStage.RUNNING
                    and ("started" in attempts[-1].timeline)
                ):
                    training.append((trial.run_id, attempts[-1].number))
        if training:
            run_id, number = source.choice(training)
            try:
                cloud.interrupt(run_id, attempt=number, notice=False)
            except LocalCloudError:  # it has just ended
                continue
            done += 1
            print(f"\rkilled {done} of {kills}", end="", file=sys.stderr, flush=True)
        time.sleep(0.5)
    print(file=sys.stderr)
    return done


def account(shared: Path, *, trials: int, stuck: int, kills: int) -> dict[str, int]:
    """Return what became of the points of a grid."""
    ended = Counter(point for point, _ in instants(shared / "ended"))
    return {
        "kills": kills,
        "lost": sum(not ended[str(point)] for point in range(trials)),
        "twice": sum(ended[str(point)] > 1 for point in range(trials)),
        "stuck": stuck,
    }


def ours(cloud: Testbed, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure runctl."""
    calm, harsh = folder / "calm", folder / "harsh"
    sweep(cloud, calm, name="calm", trials=options.trials, instances=SLOTS, seconds=1)
    wait_for_sweep(cloud, "calm")
    sweep(cloud, harsh, name="harsh", trials=options.trials, instances=4, seconds=options.seconds)
    kills = kill_instances(cloud, "harsh", kills=options.kills)
    wait_for_sweep(cloud, "harsh")
    services = AwsServices(cloud.clients, cloud.deployment)
    stuck = sum(not trial.has_ended for trial in services.trials.list_trials("harsh"))
    found = overheads(calm, slots=SLOTS)
    return {
        "overhead_s": round(statistics.median(found), 2),
        "worst_overhead_s": round(max(found), 2),
        **account(harsh, trials=options.trials, stuck=stuck, kills=kills),
    }


def peer(name: str, folder: Path, options: argparse.Namespace) -> Mapping[str, Any]:
    """Measure a peer under the same kills."""
    shared = folder / name
    shared.mkdir()
    arguments = [name, str(shared), str(options.trials), str(options.seconds), str(options.kills)]
    done = subprocess.run(
        [options.peers, str(PEERS), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:] or ["no output"]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return account(shared, trials=options.trials, stuck=found["stuck"], kills=found["kills"])


def main() -> int:
    """Measure, print, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a trial that may be killed")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--peers", default="", help="Python with optuna and syne-tune")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.trials <= SLOTS:
        parser.error(f"--trials: more than {SLOTS}, so that a trial follows another")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        endpoint = daemon.start(
            folder / "cloud",
            die_with_parent=True,
            shared_folders=[folder],
            environment={"SFN_WAIT_SCALE": "0.02"},
        )
        try:
            deploy(endpoint, project=PROJECT)
            figures: Json = {"runctl": ours(Testbed(endpoint), folder, options)}
        finally:
            daemon.stop(folder / "cloud")
        if options.peers:
            for each in ("optuna", "syne-tune"):
                figures[each] = dict(peer(each, folder, options))
    print(json.dumps(figures, indent=2) if options.json else table(figures))
    own = figures["runctl"]
    is_good = own["overhead_s"] <= MAX_OVERHEAD and not (
        own["lost"] or own["twice"] or own["stuck"]
    )
    return 0 if is_good else 1


def table(figures: Json) -> str:
    """Return the figures as text."""
    lines = [f"{'':12}{'overhead':>10}{'kills':>7}{'lost':>6}{'twice':>7}{'stuck':>7}"]
    for name, found in figures.items():
        if "error" in found:
            lines.append(f"{name:12}{found['error']}")
            continue
        overhead = f"{found['overhead_s']} s" if "overhead_s" in found else "–"
        counts = f"{found['lost']:>6}{found['twice']:>7}{found['stuck']:>7}"
        lines.append(f"{name:12}{overhead:>10}{found['kills']:>7}{counts}")
    lines.append(f"target: at most {MAX_OVERHEAD} s, and no trial lost, twice or stuck")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
