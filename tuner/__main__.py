"""`python -m tuner` is the command `tuner`."""

import sys

from tuner.cli import main

sys.exit(main())
