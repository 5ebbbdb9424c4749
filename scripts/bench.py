"""The command `cnn bench`."""
from cnn.commands.bench import main

raise SystemExit(main())
