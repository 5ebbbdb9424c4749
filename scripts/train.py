"""The command `cnn train`."""
from cnn.commands.train import main

raise SystemExit(main())
