"""What the tests of deployment share."""

import sys
from pathlib import Path

# Helper modules beside the tests are found by name: the importlib mode leaves the path as it is.
sys.path.insert(0, str(Path(__file__).parent))
