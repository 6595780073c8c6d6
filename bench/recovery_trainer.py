"""The trainer of `bench/recovery.py --requirements`: imports modules, then trains.

`python recovery_trainer.py MODULES ARGUMENTS` prints how long the imports took.
"""

import importlib
import runpy
import sys
import time

IMPORTED = "the imports took "


def main() -> None:
    """Import, then train."""
    began = time.perf_counter()
    for name in sys.argv[1].split(","):
        importlib.import_module(name)
    print(f"{IMPORTED}{time.perf_counter() - began:.3f} s", flush=True)
    sys.argv = ["train_with_checkpoints.py", *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
