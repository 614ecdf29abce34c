"""Check that a shard folder is what its manifest says; exit code 1 and a line per problem if not.

  python scripts/verify_shards.py shards/voc2012
  python scripts/verify_shards.py shards/voc2012 --fast
  python scripts/verify_shards.py s3://bucket/shards/voc2012

--fast compares hashes and counts; without it every JPEG is decoded and every box looked at.
Usage: verify_shards.py FOLDER [--fast] [--workers N]
"""

import os
import sys

from vocdist.cli import run_command, take_option
from vocdist.errors import UserError
from vocdist.remote.location import parse_location
from vocdist.shards.format import load_manifest
from vocdist.shards.verify import verify_shards


def main(arguments: list[str]) -> None:
    """Print the problems, or that there are none."""
    workers, rest = take_option(arguments, "--workers")
    folders = [argument for argument in rest if argument != "--fast"]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise UserError(
            "one folder or URL is expected: verify_shards.py FOLDER [--fast] [--workers N]"
        )
    if workers is not None and not workers.isdecimal():
        raise UserError(f"--workers {workers}: expected a number")
    folder = parse_location(folders[0])
    fast = "--fast" in rest
    problems = verify_shards(folder, fast=fast, workers=int(workers or os.cpu_count() or 1) or 1)
    if problems:
        print("\n".join(problems))
        print(f"{folder}: {len(problems):,} problems", file=sys.stderr)
        sys.exit(1)
    samples = sum(split.samples for split in load_manifest(folder).splits.values())
    print(f"{folder}: {samples:,} samples, {'hashes and counts are' if fast else 'all is'} right")


if __name__ == "__main__":
    run_command(main, __doc__)
