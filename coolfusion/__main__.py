"""``python -m coolfusion`` is the ``coolfusion`` command."""

import sys

from coolfusion.cli import main

sys.exit(main())
