"""`python -m pillarbox` is the program `pillarbox`."""

import sys

from pillarbox.app import main

sys.exit(main())
