"""`python -m libos_ipc`: the command line."""

import sys

from libos_ipc.cli import main

sys.exit(main())
