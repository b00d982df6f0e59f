"""Run the cases: `python -m benchmarks --help`."""

import sys

if __name__ == "__main__":
    # loky's children import this file again: they should not pay for our imports
    from benchmarks.command import main

    sys.exit(main())
