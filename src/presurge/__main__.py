"""``python -m presurge``."""

import sys

from presurge.cli import main

if __name__ == "__main__":
    sys.exit(main())
