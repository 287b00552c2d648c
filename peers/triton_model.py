"""The model that Triton's python backend runs; `triton_peer` copies it into a model repository.

It imports Triton's own module, which exists only in a process of the python backend.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

if not hasattr(np, "vecdot"):  # the python backend needs numpy 1, which lacks it
    vars(np)["vecdot"] = partial(np.einsum, "...i,...i->...")

from peers.work import Work


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the model's configuration names."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.work = Work(Path(parameters["bundle"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request of a dynamic batch, ranked in one run."""
        contents = [
            pb_utils.get_input_tensor_by_name(request, "body").as_numpy().item()
            for request in requests
        ]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("answer", np.array([[content]], object))])
            for content in self.work.handle(contents)
        ]
