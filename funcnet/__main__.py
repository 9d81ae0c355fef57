"""`python -m funcnet` is the `funcnet` command."""

import sys

from funcnet.cli import main

sys.exit(main())
