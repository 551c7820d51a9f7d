"""`python -m tuner` is the command `tuner`."""

import sys

from tuner.cli.main import main

sys.exit(main())
