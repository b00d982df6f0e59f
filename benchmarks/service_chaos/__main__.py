"""`python -m benchmarks.service_chaos --help`."""

import sys

from benchmarks.service_chaos.command import main

if __name__ == "__main__":
    sys.exit(main())
