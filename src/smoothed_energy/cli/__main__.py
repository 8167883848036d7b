"""The command line as ``python -m smoothed_energy.cli``."""

import sys

from smoothed_energy.cli import main

sys.exit(main())
