"""`python -m vlapic`: the command line."""

import sys

from vlapic.cli import main

sys.exit(main())
