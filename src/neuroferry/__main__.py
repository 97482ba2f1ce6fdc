"""``python -m neuroferry``."""

import sys

from neuroferry.cli.main import main

sys.exit(main())
