"""`python -m smoothed_energy` is the command line."""

import sys

from .cli import main

sys.exit(main())
