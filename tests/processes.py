"""Running Python in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_python(*arguments, timeout=300, **environment):
    """Run `python arguments...` and return the finished process; `environment` is added to this one's.

    In the tests' folder, because in the source folder `import cnn` would find the sources without kernels.
    """
    return subprocess.run(
        [sys.executable, *(textwrap.dedent(a) for a in arguments)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
