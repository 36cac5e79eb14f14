"""`python -m landbridge` is the `landbridge` command."""

import sys

from landbridge.cli import main

sys.exit(main())
