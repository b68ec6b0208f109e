"""Fuzz everything that reads a user's file: `python scripts/fuzz.py --inputs 10000 [--seed 0] [--only NAME ...]`.

Each loader gets mutated pictures, clips, rows, question sets, profiles, results, runs or model folders. It must return
a value or raise our own error. The exit code is 1 if it did anything else: another exception, a warning, more time
than the limit. A fault is printed with its seed, which builds the same input again:

    python scripts/fuzz.py --only rows --seed 1234 --inputs 1

The loaders are in `tests/helpers/fuzz/`, where it is said how to add one.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# An input that makes a loader ask for more memory than this fails with a MemoryError.
MAX_MEMORY_BYTES = 24 * 2**30
AT_ONCE = 500


def main(arguments: list[str] | None = None) -> int:
    """Run the loaders, print a line for each, and return the exit code."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from tests.helpers.fuzz import Outcome, fuzz, fuzz_modules

    modules = fuzz_modules()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs of each loader; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first input; default: %(default)s")
    parser.add_argument("--only", action="append", choices=list(modules), help="only this loader; may be repeated")
    options = parser.parse_args(arguments)
    failed = False
    for name in options.only or modules:
        total, kinds = Outcome(name), set()
        for start in range(0, options.inputs, AT_ONCE):
            count = min(AT_ONCE, options.inputs - start)
            outcome = fuzz(modules[name], count, options.seed + start)
            total.inputs, total.values = total.inputs + outcome.inputs, total.values + outcome.values
            total.own_errors, total.seconds = total.own_errors + outcome.own_errors, total.seconds + outcome.seconds
            total.slowest_s = max(total.slowest_s, outcome.slowest_s)
            total.faults += outcome.faults
            for seed, kind, trace in outcome.faults:
                print(f"--only {name} --seed {seed} --inputs 1: {kind}", flush=True)
                place = kind.rpartition("(")[2]
                if place not in kinds:
                    print(trace, file=sys.stderr)
                kinds.add(place)
        print(
            f"{name}: {total.inputs:,} inputs, {total.values:,} values, {total.own_errors:,} own errors, "
            f"{len(total.faults):,} faults; {total.seconds:.0f} s, the slowest {total.slowest_s:.2f} s",
            flush=True,
        )
        failed |= bool(total.faults)
    return int(failed)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.exit(main())
