"""MLServer with a runtime of its own, adaptive batching and parallel workers.

MLServer reads its settings from files, which are written for each start.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from peers import child
from peers.work import Work, parse_options


class Rerank(MLModel):
    """The model, in each of the parallel workers."""

    async def load(self) -> bool:
        """Load the bundle that the model's settings name."""
        self.work = Work(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return one response for each string of an adaptive batch, ranked in one run."""
        contents = payload.inputs[0].data.root
        responses = [response.decode() for response in self.work.handle(contents)]
        output = ResponseOutput(
            name="answer", shape=[len(responses), 1], datatype="BYTES", data=responses
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> int:
    """Run the server until SIGTERM and return its exit status."""
    # One worker, because MLServer's own process, which speaks HTTP and gathers batches, fills the
    # other core.
    options = parse_options(__doc__, workers=1)
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": options.port,
        "grpc_port": 0,
        "metrics_endpoint": None,
        "gzip_enabled": False,
        "parallel_workers": options.workers,
    }
    model = {
        "name": "rerank",
        "implementation": "peers.mlserver_peer.Rerank",
        "max_batch_size": 8,
        "max_batch_time": 0.001,
        "parameters": {"uri": str(options.bundle.resolve())},
    }
    with tempfile.TemporaryDirectory() as directory:
        settings |= {"environments_dir": f"{directory}/envs", "metrics_dir": f"{directory}/metrics"}
        for name, content in (("settings", settings), ("model-settings", model)):
            Path(directory, f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return child.run([str(Path(sys.prefix, "bin", "mlserver")), "start", directory])


if __name__ == "__main__":
    sys.exit(main())
