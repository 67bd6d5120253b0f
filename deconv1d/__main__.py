"""`python -m deconv1d`: the same as the command `deconv1d`."""

import sys

from deconv1d.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
