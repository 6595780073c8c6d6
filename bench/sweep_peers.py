"""What bench/sweep.py compares with: a grid under kills, with Optuna or Syne Tune.

It runs in an environment of its own: `sweep_peers.py PEER FOLDER TRIALS SECONDS KILLS`.
"""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORKERS = 4
LONGEST = 300
OBJECTIVE = """
import pathlib, sys, time
shared, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
def train(point):
    with open(shared / "begun", "a") as begun:
        print(point, time.time(), file=begun, flush=True)
    time.sleep(seconds)
    with open(shared / "ended", "a") as ended:
        print(point, time.time(), file=ended, flush=True)
"""
OPTUNA_WORKER = (
    OBJECTIVE
    + """
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
trials = int(sys.argv[3])
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(
    study_name="bench", load_if_exists=True,
    storage=JournalStorage(JournalFileBackend(str(shared / "journal"))),
    sampler=optuna.samplers.GridSampler({"point": list(range(trials))}, seed=1),
)
def objective(trial):
    point = trial.suggest_int("point", 0, trials - 1)
    train(point)
    return point
study.optimize(objective)
"""
)
SYNE_TRIAL = (
    OBJECTIVE
    + """
import argparse
parser = argparse.ArgumentParser()
for name in ("shared", "seconds", "point"):
    parser.add_argument(f"--{name}")
options, _ = parser.parse_known_args()
shared, seconds = pathlib.Path(options.shared), float(options.seconds)
from syne_tune import Reporter
train(options.point)
Reporter()(loss=float(options.point), epoch=1)
"""
)


def optuna(shared: Path, trials: int, seconds: float, kills: int) -> dict[str, int]:
    """Run workers that share a journal; a killed one is replaced."""
    library = importlib.import_module("optuna")
    storages = importlib.import_module("optuna.storages")
    journal = importlib.import_module("optuna.storages.journal")

    def start() -> subprocess.Popen[bytes]:
        arguments = [str(shared), str(seconds), str(trials)]
        return subprocess.Popen([sys.executable, "-c", OPTUNA_WORKER, *arguments])

    workers = [start()]
    time.sleep(5)  # the first one creates the study
    workers += [start() for _ in range(WORKERS - 1)]
    source, done, began = random.Random(1), 0, time.monotonic()
    while any(worker.poll() is None for worker in workers):
        time.sleep(seconds / 2)
        if done < kills and (shared / "begun").exists():
            number = source.randrange(WORKERS)
            if workers[number].poll() is None:
                workers[number].kill()
                workers[number].wait()
                workers[number] = start()
                done += 1
        if time.monotonic() - began > LONGEST:
            for worker in workers:
                worker.kill()
            break
    storage = storages.JournalStorage(journal.JournalFileBackend(str(shared / "journal")))
    study = library.load_study(study_name="bench", storage=storage)
    states = [trial.state for trial in study.trials]
    return {"stuck": states.count(library.trial.TrialState.RUNNING), "kills": done}


def syne_tune(shared: Path, trials: int, seconds: float, kills: int) -> dict[str, int]:
    """Run trials on the local backend, and kill their processes."""
    library = importlib.import_module("syne_tune")
    backend = importlib.import_module("syne_tune.backend")
    choice = importlib.import_module("syne_tune.config_space").choice
    schedulers = importlib.import_module(
        "syne_tune.optimizer.schedulers.single_objective_scheduler"
    )

    script = shared / "trial.py"
    script.write_text(SYNE_TRIAL)
    space: dict[str, Any] = {
        "point": choice([str(point) for point in range(trials)]),
        "shared": str(shared),
        "seconds": seconds,
    }
    points = [{"point": str(point)} for point in range(trials)]
    scheduler = schedulers.SingleObjectiveScheduler(
        space, metric="loss", do_minimize=True, searcher="random_search",
        searcher_kwargs={"points_to_evaluate": points},
    )  # fmt: skip
    tuner = library.Tuner(
        trial_backend=backend.LocalBackend(entry_point=str(script)),
        scheduler=scheduler,
        stop_criterion=library.StoppingCriterion(
            max_num_trials_finished=trials, max_wallclock_time=LONGEST
        ),
        n_workers=WORKERS,
        max_failures=kills + 1,
        save_tuner=False,
    )
    child = os.fork()
    if child == 0:
        done, source = 0, random.Random(1)
        while done < kills:
            time.sleep(seconds / 2)
            found = _processes_of(script)
            if found:
                os.kill(source.choice(found), signal.SIGKILL)
                done += 1
        os._exit(0)
    tuner.run()
    os.waitpid(child, 0)
    busy = tuner.trial_backend.busy_trial_ids()
    return {"stuck": len(busy), "kills": kills}


def _processes_of(script: Path) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(script).encode() in words and b"python" in words[0]:
                found.append(int(folder.name))
    return found


def main() -> None:
    """Run a peer, and print what it shows at the end."""
    name, shared, trials, seconds, kills = sys.argv[1:]
    run = {"optuna": optuna, "syne-tune": syne_tune}[name]
    print(json.dumps(run(Path(shared), int(trials), float(seconds), int(kills))))


if __name__ == "__main__":
    main()
