"""The command `cnn predict`."""
from cnn.commands.predict import main

raise SystemExit(main())
