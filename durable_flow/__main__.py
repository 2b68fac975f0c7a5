"""`python -m durable_flow` is `durable-flow`."""

import sys

from durable_flow.cli import main

if __name__ == "__main__":
    sys.exit(main())
