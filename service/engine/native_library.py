"""Load the native library and call it; the structs mirror native/src/api.h.

The library comes from the distribution `eglr-rerank-native`, or from `make native` in a checkout.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import weakref
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from service.engine.contract import Floats
from service.engine.native_weights import EvaluatorWeights, GeneratorWeights

ABI = 3
PACKAGE = "eglr_rerank_native"
BUILT = Path(__file__).parents[2] / "build" / "native" / "libeglr_rerank_native.so"
SHAPE = ("host", "width", "numbers", "blocks", "positions", "budget")
EVALUATOR_SHAPE = ("width", "numbers", "blocks", "positions", "heads")
# Fields of eglr_list, in order; a batch has them as int64 [B, 9].
LIST_FIELDS = (
    "size", "slates", "length", "budget", "noise_at", "logits_at", "boost_at", "attributes",
    "columns",
)  # fmt: skip
COUNTS = ("lists", "slates", "candidates")
ARRAYS = (
    "list", "knobs", "rows", "numbers", "pinned", "group", "quota", "noise", "boosts", "ends",
    "weight", "retained", "values", "alone", "logits",
)  # fmt: skip
COUNTED = ("noise", "boosts", "ends", "values", "alone", "logits")
COLUMN_COUNTS = (
    "candidates", "width", "relative", "kernels", "entries", "positives", "first",
)  # fmt: skip
COLUMN_ARRAYS = (
    "sources", "targets", "summands", "figures", "rows", "numbers", "compared", "nearest",
)  # fmt: skip
OUTPUTS = ("slate", "steps", "logprob", "before", "after")
NONE = -1  # an offset of eglr_list


class NativeError(RuntimeError):
    """The library is missing, does not fit, or refused its arguments."""


class Shape(ctypes.Structure):
    """eglr_shape."""

    _fields_ = [(name, c_int32) for name in SHAPE]


class EvaluatorShape(ctypes.Structure):
    """eglr_evaluator_shape."""

    _fields_ = [(name, c_int32) for name in EVALUATOR_SHAPE]


class Batch(ctypes.Structure):
    """eglr_batch."""

    _fields_ = [
        *((name, c_int64) for name in COUNTS),
        *((name, c_void_p) for name in ARRAYS),
        *((f"{name}_count", c_int64) for name in COUNTED),
        *((name, c_void_p) for name in OUTPUTS),
        ("fault", c_int64),
    ]


class Finished(ctypes.Structure):
    """eglr_finished."""

    _fields_ = [
        *((name, c_int64) for name in COUNTS),
        *((name, c_void_p) for name in ("list", "rows", "numbers", "slate", "likes", "utility")),
        ("fault", c_int64),
    ]


class Columns(ctypes.Structure):
    """eglr_columns."""

    _fields_ = [
        *((name, c_int64) for name in COLUMN_COUNTS),
        *((name, c_void_p) for name in COLUMN_ARRAYS),
        ("age", c_float),
        ("tied", c_int64),
    ]


# Function -> types of its arguments; each returns a code.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "create": (POINTER(Shape), c_void_p, c_int64, POINTER(c_void_p)),
    "create_evaluator": (POINTER(EvaluatorShape), c_void_p, c_int64, POINTER(c_void_p)),
    "context": (POINTER(c_void_p),),
    "decode": (c_void_p, c_void_p, POINTER(Batch)),
    "evaluate": (c_void_p, c_void_p, POINTER(Finished)),
    "compare": (c_void_p, POINTER(Columns)),
}
DESTRUCTORS = ("destroy", "destroy_evaluator", "release")


class Handle:
    """A pointer of the library, which is freed with this object."""

    def __init__(self, pointer: c_void_p, free: Any) -> None:
        self.pointer = pointer
        self._finalizer = weakref.finalize(self, free, pointer)


class NativeLibrary:
    """The functions of one library; calls release the interpreter lock.

    Every thread has a context of its own, which all models share.
    """

    def __init__(self, path: Path) -> None:
        """Load a library. Raises NativeError if it does not load or has another interface."""
        try:
            self._library = ctypes.CDLL(str(path))
            abi = self._library.eglr_native_abi()
        except (OSError, AttributeError) as error:
            raise NativeError(f"{path}: does not load ({error})") from error
        if abi != ABI:
            raise NativeError(f"{path}: interface {abi}, but this service needs {ABI}; rebuild it")
        self.path = path
        self.lanes = int(self._library.eglr_native_lanes())
        self._library.eglr_native_message.restype = c_char_p
        for name, arguments in FUNCTIONS.items():
            self._function(name).argtypes = arguments
        for name in DESTRUCTORS:
            self._function(name).argtypes = (c_void_p,)
            self._function(name).restype = None
        self._decode, self._evaluate = self._function("decode"), self._function("evaluate")
        self._compare = self._function("compare")
        self._of_thread = threading.local()

    def create_generator(self, weights: GeneratorWeights) -> Handle:
        """Create a generator. Raises NativeError if its shape is not supported."""
        shape = Shape(*(getattr(weights, name) for name in SHAPE))
        return self._create("create", "destroy", shape, weights.weights)

    def create_evaluator(self, weights: EvaluatorWeights) -> Handle:
        """Create an evaluator. Raises NativeError if its shape is not supported."""
        shape = EvaluatorShape(*(getattr(weights, name) for name in EVALUATOR_SHAPE))
        return self._create("create_evaluator", "destroy_evaluator", shape, weights.weights)

    def decode(self, generator: Handle, batch: Batch) -> None:
        """Decode a batch. Raises NativeError naming the list that the library refuses."""
        code = self._decode(generator.pointer, self._context(), byref(batch))
        if code:
            raise NativeError(f"list {batch.fault} of the batch: {self._message(code)}")

    def evaluate(self, evaluator: Handle, finished: Finished) -> None:
        """Estimate slates. Raises NativeError naming the list that the library refuses."""
        code = self._evaluate(evaluator.pointer, self._context(), byref(finished))
        if code:
            raise NativeError(f"list {finished.fault} of the batch: {self._message(code)}")

    def compare(self, columns: Columns) -> None:
        """Write the columns of a list. Raises NativeError for sizes that do not fit each other."""
        code = self._compare(self._context(), byref(columns))
        if code:
            raise NativeError(self._message(code))

    def _create(self, create: str, destroy: str, shape: Any, weights: Floats) -> Handle:
        pointer = c_void_p()
        address = weights.ctypes.data
        code = self._function(create)(byref(shape), address, weights.size, byref(pointer))
        if code:
            raise NativeError(f"{self.path}: {self._message(code)}")
        return Handle(pointer, self._function(destroy))

    def _context(self) -> c_void_p:
        """Return the context of this thread."""
        handle: Handle | None = getattr(self._of_thread, "handle", None)
        if handle is None:
            pointer = c_void_p()
            code = self._function("context")(byref(pointer))
            if code:
                raise NativeError(self._message(code))
            handle = self._of_thread.handle = Handle(pointer, self._function("release"))
        return handle.pointer

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"eglr_native_{name}")

    def _message(self, code: int) -> str:
        text: bytes = self._library.eglr_native_message(code)
        return text.decode()


def find_library() -> Path:
    """Return the path of the library for this CPU. Raises NativeError if there is none."""
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError:
        if BUILT.is_file():
            return BUILT
        raise NativeError(f"no library: neither package {PACKAGE} nor `make native`") from None
    try:
        return Path(package.library_path())
    except OSError as error:
        raise NativeError(f"{PACKAGE}: {error}") from error
