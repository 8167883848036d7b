"""The command line as ``python -m smoothed_energy``."""

import sys

from .cli import main

sys.exit(main())
