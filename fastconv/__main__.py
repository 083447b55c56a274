"""`python -m fastconv` is the command `fastconv`."""

import sys

from fastconv.cli import main

sys.exit(main())
