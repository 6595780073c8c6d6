"""A step before training: images of digits are centred, scaled, augmented and stored as JSON lines.

It depends on runctl only through environment variables: `runctl aws process` calls it once for each
shard. By hand, or with the options that follow a script, it processes a folder:

    python preprocess_data.py --input-s3 data/digits --output-s3 prepared --workers 4
"""

import argparse
import csv
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

SIDE = 8
BRIGHTEST = 16
# The original, and a copy shifted by a pixel in each direction.
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))

Image = list[list[float]]


def main() -> None:
    """Process every file of the input folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    environ = os.environ
    parser.add_argument("--input-s3", type=Path, default=environ.get("RUNCTL_INPUT_DIR", "input"))
    parser.add_argument(
        "--output-s3", type=Path, default=environ.get("RUNCTL_OUTPUT_DIR", "output")
    )
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    shard = int(environ.get("RUNCTL_SHARD", "0"))
    options.output_s3.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in Path(options.input_s3).rglob("*.csv"))
    convert = partial(process_file, folder=options.output_s3, shard=shard)
    if options.workers == 1:
        counts = list(map(convert, files))
    else:
        with ProcessPoolExecutor(options.workers) as pool:
            counts = list(pool.map(convert, files))
    shards = environ.get("RUNCTL_SHARDS", "1")
    named = f"{len(files)} file{'s' if len(files) != 1 else ''}"
    print(f"shard {shard} of {shards}: {sum(counts)} images of {named}", flush=True)


def process_file(path: Path, *, folder: Path, shard: int) -> int:
    """Write the images that a file becomes; return how many there are."""
    # The number of the shard keeps files of the same name apart.
    target = folder / f"{shard:05d}-{path.stem}.jsonl"
    with path.open(newline="") as source, target.open("w") as out:
        count = 0
        for label, image in read_images(source):
            for down, right in SHIFTS:
                pixels = shift(centre(image), down, right)
                out.write(json.dumps({"label": label, "pixels": flatten(pixels)}) + "\n")
                count += 1
    return count


def read_images(lines: Iterator[str]) -> Iterator[tuple[int, Image]]:
    """Yield label and image of each row of a CSV file."""
    rows = csv.reader(lines)
    next(rows)
    for row in rows:
        label, *pixels = map(int, row)
        scaled = [pixel / BRIGHTEST for pixel in pixels]
        yield label, [scaled[start : start + SIDE] for start in range(0, SIDE * SIDE, SIDE)]


def centre(image: Image) -> Image:
    """Move an image so that its centre of mass is in the middle."""
    mass = sum(map(sum, image)) or 1
    row = sum(number * sum(line) for number, line in enumerate(image)) / mass
    column = sum(number * pixel for line in image for number, pixel in enumerate(line)) / mass
    middle = (SIDE - 1) / 2
    return shift(image, round(middle - row), round(middle - column))


def shift(image: Image, down: int, right: int) -> Image:
    """Move an image by whole pixels; what leaves it is lost, and what enters is dark."""

    def pixel(row: int, column: int) -> float:
        inside = 0 <= row < SIDE and 0 <= column < SIDE
        return image[row][column] if inside else 0.0

    return [[pixel(row - down, column - right) for column in range(SIDE)] for row in range(SIDE)]


def flatten(image: Image) -> list[float]:
    """Return the pixels of an image in one list."""
    return [pixel for line in image for pixel in line]


if __name__ == "__main__":
    main()
