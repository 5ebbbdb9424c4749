"""`python -m cnn` is the command `cnn`."""
import sys

from cnn.commands import main

sys.exit(main())
