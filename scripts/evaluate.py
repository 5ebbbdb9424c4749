"""The command `cnn evaluate`."""
from cnn.commands.evaluate import main

raise SystemExit(main())
