"""The command `cnn report`."""
from cnn.commands.report import main

raise SystemExit(main())
