#!/usr/bin/env python3
"""Makes the sample models and their sample inputs, or checks the committed ones.

python models/make.py           # makes everything anew; some four minutes on one core
python models/make.py --check   # exits with 1 when a promise does not hold; some twenty seconds
"""

import argparse
import os

# One thread adds up in one order, so that two runs give the same bytes. To be set before numpy loads.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from recipes import plain, samples, surface, tasks, vibration  # noqa: E402
from recipes.check import check  # noqa: E402
from recipes.places import SERVED, TESTED, model_file, write  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; check what is committed")
    if parser.parse_args().check:
        faults = check()
        raise SystemExit(f"{len(faults)} of the promises do not hold" if faults else 0)
    make()


def make():
    write(model_file(SERVED, "add"), plain.add())
    write(model_file(TESTED, "slow-add"), plain.slow_add())
    write(model_file(TESTED, "slow-add-twice"), plain.slow_add(2))
    write(model_file(TESTED, "slow-add-fourfold"), plain.slow_add(4))
    write(model_file(TESTED, "add-fails"), plain.add_fails())
    write(model_file(TESTED, "add-hangs"), plain.add_hangs())
    write(model_file(TESTED, "echo"), plain.echo())
    write(model_file(TESTED, "echo-bf16"), plain.echo_bf16())
    write(model_file(TESTED, "accumulate"), plain.accumulate())
    write(TESTED / "accumulate/model.toml", plain.ACCUMULATE_SETTINGS)
    write(model_file(TESTED, "broken"), plain.broken())
    write(model_file(TESTED, "mlp"), plain.mlp())
    write(model_file(SERVED, vibration.NAME), vibration.make())
    write(model_file(SERVED, surface.NAME), surface.make())
    tasks.make()
    samples.make()


if __name__ == "__main__":
    main()
