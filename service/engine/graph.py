"""Open one ONNX graph of a bundle and compare its signature with the contract."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from service.engine.contract import (
    EVALUATOR,
    EVALUATOR_OUTPUTS,
    GENERATOR,
    INTENT_GENERATOR,
    INTENT_INPUTS,
    INTENT_STATIC,
    OUTPUTS,
    STATIC,
    BundleError,
    Manifest,
    Table,
    inputs_of,
)
from service.engine.cuda import CudaRunner, on_device


def open_graphs(
    directory: Path, manifest: Manifest, threads: int, provider: str, spinning: bool
) -> list[ort.InferenceSession]:
    """Open generator, evaluator and, if the bundle has it, the graph of intent, in this order.

    Raises BundleError as `open_graph` does, and for names of inputs that the contract lacks.
    """
    inputs, static = inputs_of(manifest.contract_version), provider == "cuda"
    signatures: dict[str, tuple[Table, Table]] = {
        STATIC if static else GENERATOR: (inputs[0], OUTPUTS),
        EVALUATOR: (inputs[1], EVALUATOR_OUTPUTS),
    }
    if manifest.supports_intent:
        name = INTENT_STATIC if static else INTENT_GENERATOR
        signatures[name] = (inputs[0] | INTENT_INPUTS, OUTPUTS)
    graphs = []
    for name, (of_graph, outputs) in signatures.items():
        capture = name == STATIC  # not the others, which run on shapes without a bucket
        packed = name not in (GENERATOR, INTENT_GENERATOR)
        path = directory / name
        graphs.append(open_graph(path, threads, provider, spinning, capture, packed))
        check_signature(path, graphs[-1], of_graph, outputs)
    return graphs


def open_graph(
    path: Path,
    threads: int,
    provider: str,
    spinning: bool = False,
    capture: bool = False,
    packed: bool = True,
    content: bytes | None = None,
) -> ort.InferenceSession:
    """Open a graph on the requested provider.

    Args:
        path: the ONNX file.
        threads: onnxruntime's intra-op threads.
        provider: cpu or cuda.
        spinning: let idle threads spin between runs.
        capture: capture CUDA graphs; then the session must run through a CudaRunner.
        packed: lay out weights anew for matrix products. Not for a graph with branches:
            onnxruntime would not plan their memory (docs/inference.md).
        content: the model to open in place of that of the file.

    Raises:
        BundleError: the graph does not load, or runs on another provider.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # onnxruntime writes to standard error itself, where a full pipe would block the run. On the CPU
    # the exception says all that it would.
    options.log_severity_level = 3 if provider == "cuda" else 4
    # Spinning burns the core that the event loop needs between runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.disable_prepacking", str(int(not packed)))
    if provider == "cuda":
        ort.preload_dlls()  # of the CUDA and cuDNN wheels, if installed; else the system's are used
    providers = CudaRunner.providers(capture) if provider == "cuda" else ["CPUExecutionProvider"]

    def create() -> ort.InferenceSession:
        return ort.InferenceSession(
            str(path) if content is None else content,
            options,
            providers=providers,
            # On the CPU the fused operator is slower than the two it replaces (docs/inference.md).
            disabled_optimizers=["SkipLayerNormFusion"] if provider == "cpu" else None,
        )

    try:
        graph = on_device(create) if provider == "cuda" else create()
    except Exception as error:  # onnxruntime raises a dozen unrelated types here
        raise BundleError(f"{path}: does not load ({error})") from error
    first = graph.get_providers()[0]
    if provider == "cuda" and first != "CUDAExecutionProvider":
        # onnxruntime falls back to the CPU in silence, even where it lists CUDA as available.
        raise BundleError(
            f"{path}: runs on {first} instead of CUDAExecutionProvider; check the GPU's driver, "
            "CUDA and cuDNN, or set RERANK_PROVIDER=cpu"
        )
    return graph


def check_signature(path: Path, graph: ort.InferenceSession, inputs: Table, outputs: Table) -> None:
    """Raise BundleError unless the names of inputs and outputs are the contract's."""
    for kind, values, expected in (
        ("inputs", graph.get_inputs(), inputs),
        ("outputs", graph.get_outputs(), outputs),
    ):
        names = [value.name for value in values]
        if names != list(expected):
            raise BundleError(f"{path}: {kind} are {names}, but the contract has {list(expected)}")
