"""Base models: find, identify and load them; what differs between their families.

Importing this package quiets the libraries underneath: their progress bars, and their notices that
torchvision or another optional package is missing (it is not needed here). Whoever sets the
environment variables decides.
"""

import logging
import os
import sys

_QUIET = {"transformers": "TRANSFORMERS_VERBOSITY", "diffusers": "DIFFUSERS_VERBOSITY"}

# diffusers loads it wherever it is installed, and it then warns that an optional package is not.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

for _library, _variable in _QUIET.items():
    if _variable not in os.environ:
        os.environ[_variable] = "error"
        if _library in sys.modules:  # imported already: the variable comes too late
            sys.modules[_library].utils.logging.set_verbosity_error()
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
