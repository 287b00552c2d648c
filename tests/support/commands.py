"""Run the service's command in a new process."""

import os
import subprocess
import sys

from tests.support.bundles import ROOT


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
