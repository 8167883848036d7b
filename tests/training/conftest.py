import sys
from pathlib import Path

# The training code is beside the package, not in it.
sys.path.insert(0, str(Path(__file__).parents[2]))
