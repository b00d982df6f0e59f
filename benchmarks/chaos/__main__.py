"""Fire at ours, and compare the peers: `python -m benchmarks.chaos --help`."""

import sys

if __name__ == "__main__":
    # loky's children import this file again
    from benchmarks.chaos.command import main

    sys.exit(main())
