"""Rarebit's library: everything that works without a browser."""

import os

# Read once, when torch is loaded. By default OpenMP's threads spin while they wait for each other:
# where anything else runs on the same cores, a training step then took 15 times as long
# (measured on two cores, beside another busy process).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
