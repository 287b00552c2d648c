"""Sessions that are slow or fail, and a tracer that counts."""

import dataclasses
import threading
import time

from service.engine.collate import ModelError
from service.engine.contract import OUTPUTS
from service.engine.features.encoding import FeatureError
from service.engine.features.inline import REQUIRED
from service.engine.rows import Timing
from service.engine.session import Session
from service.engine.steps import StepTracer


class Failing(Session):
    """A session whose runs take `delay_s` and then fail."""

    def __init__(self, real, delay_s=0.0, fail=True):
        self.__dict__ |= real.__dict__
        self.delay_s, self.fail = delay_s, fail

    def run(self, rows):
        time.sleep(self.delay_s)
        if self.fail:
            raise ModelError(f"secret {list(OUTPUTS)}")
        return super().run(rows)

    def warm_up(self, batch_sizes, list_size):
        return [Timing(b, volume, 1e-6 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]


class Demanding(Session):
    """A session whose lists need the user's age, as if its schema required that feature."""

    def __init__(self, real):
        self.__dict__ |= real.__dict__

    def row(self, candidates, *options):
        if candidates.user.get("age") is None and not candidates.user_is_partial:
            raise FeatureError("user.features.age", REQUIRED, None)
        return super().row(dataclasses.replace(candidates, user={}), *options)


class Slow(Failing):
    """A session that takes `delay_s` per run and records the sizes of the lists it ran."""

    def __init__(self, real, delay_s):
        super().__init__(real, delay_s, fail=False)
        self.ran = []

    def run(self, rows):
        self.ran += [len(row.numbers) for row in rows]
        return super().run(rows)


class CountingTracer(StepTracer):
    """A tracer that counts the slates, waits for `go`, and passes them on to a real one.

    Its graph is open as `is_open` says, or once `open` is called.
    """

    def __init__(self, real, is_open=True):
        self.real, self.is_open = real, is_open
        self.slates, self.go = 0, threading.Event()
        self.go.set()

    def open(self):
        self.is_open = True
        return True

    def is_open_for(self, row):
        return self.is_open

    def trace(self, row, slate, budget):
        self.slates += 1
        assert self.go.wait(60)
        return self.real.trace(row, slate, budget)
