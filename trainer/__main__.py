"""``python -m trainer COMMAND …``"""

import logging
import os

# Read once, when torch is loaded (by GNU's OpenMP; others ignore it). By default threads that wait
# for each other spin for milliseconds: beside two busy processes on two cores a training step of
# the built-in model then took 4 to 17 s instead of 0.17 s. With 10,000 turns it took 0.39 s there,
# and 0.17 s alone, where passive waiting (OMP_WAIT_POLICY) took 0.33 s.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# diffusers loads it wherever it is installed, and it then warns that an optional package is not.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from trainer.commands.cli import main  # noqa: E402 (what it imports reads the above)

if __name__ == "__main__":
    raise SystemExit(main())
