"""Deprecated location of the client: install `eglr-rerank-client` and import `rerank_client`.

This package goes away in version 0.3.0.
"""

import importlib.util
import sys
import warnings
from pathlib import Path

if importlib.util.find_spec("rerank_client") is None:  # a checkout on the path, nothing installed
    sys.path.append(str(Path(__file__).parent))

from rerank_client import *  # noqa: F403
from rerank_client import __all__  # noqa: F401

warnings.warn(
    "`client` is deprecated and goes away in 0.3.0: `pip install ./client` and import "
    "`rerank_client`",
    DeprecationWarning,
    stacklevel=2,
)
