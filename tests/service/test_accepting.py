"""Workers that accept from one socket have as many connections each."""

import asyncio
import contextlib
import socket

import pytest
import uvloop

from service.accepting import CLOSED, Acceptor, ObservedSet
from service.shared_values import SLOT_BYTES, Slot

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Echo(asyncio.Protocol):
    """Greets, and is in the set of connections while it is open."""

    def __init__(self, connections):
        self.connections = connections

    def connection_made(self, transport):
        self.transport = transport
        self.connections.add(self)
        transport.write(b"hello")

    def connection_lost(self, exc):
        self.connections.discard(self)


class Workers:
    """Acceptors of several workers in one event loop, on a socket of their own each."""

    def __init__(self, count, balanced=True):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(100)
        self.slots = [Slot(memoryview(bytearray(4096))) for _ in range(count)]
        self.sets, self.acceptors, self.balanced = [], [], balanced
        self.sockets = [self.listener.dup() for _ in range(count)]

    def start(self, number, serves=True):
        """Start one worker, and report it as serving."""
        slot, connections = self.slots[number], ObservedSet()
        slot.open()
        if serves:
            slot.beat()
        others = [each for each in self.slots if each is not slot] if self.balanced else []
        self.sets.append(connections)
        self.acceptors.append(
            Acceptor(self.sockets[number], lambda: Echo(connections), connections, slot, others)
        )

    async def connect(self, count):
        """Open connections at once, and wait until all are greeted; return their writers."""
        address = self.listener.getsockname()
        streams = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(count)))
        await asyncio.gather(*(reader.readexactly(5) for reader, _ in streams))
        return [writer for _, writer in streams]

    def counts(self):
        return [slot.connections for slot in self.slots]

    def close(self):
        for acceptor in self.acceptors:
            acceptor.close()
        for each in (self.listener, *self.sockets):
            each.close()


def play(steps, make_loop=asyncio.new_event_loop, **options):
    async def scenario():
        with contextlib.closing(Workers(2, **options)) as workers:
            async with asyncio.timeout(30):
                result = await steps(workers)
            for connection in [each for held in workers.sets for each in held]:
                connection.transport.abort()
            await asyncio.sleep(0.05)
            return result

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(scenario())


async def close(writers):
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers))


async def spread(workers):
    """Return the connections of two serving workers after a burst of 20."""
    for number in range(2):
        workers.start(number)
    writers = await workers.connect(20)
    counts = workers.counts()
    await close(writers)
    return counts


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_burst_of_connections_is_shared_evenly(make_loop):
    first, second = play(spread, make_loop)
    assert first + second == 20
    assert abs(first - second) <= 4


def test_workers_that_do_not_know_of_each_other_share_a_burst_less_evenly():
    async def one_is_late(workers):
        workers.start(0)
        writers = await workers.connect(20)
        workers.start(1)
        counts = workers.counts()
        await close(writers)
        return counts

    assert play(one_is_late, balanced=False) == [20, 0]


def test_a_new_worker_gets_the_next_connections():
    async def steps(workers):
        workers.start(0)
        first = await workers.connect(6)
        workers.start(1)
        second = await workers.connect(6)
        counts = workers.counts()
        await close([*first, *second])
        return counts

    first, second = play(steps)
    assert first + second == 12
    assert abs(first - second) <= 2


def test_a_worker_that_does_not_accept_keeps_no_connection_waiting():
    async def steps(workers):
        workers.start(0)
        workers.slots[1].open()
        workers.slots[1].beat()  # serves, but its event loop does not run
        writers = await workers.connect(5)
        counts = workers.counts()
        await close(writers)
        return counts

    assert play(steps) == [5, 0]


def test_a_closed_connection_makes_room_and_a_closed_worker_is_not_waited_for():
    async def steps(workers):
        workers.start(0)
        writers = await workers.connect(3)
        assert workers.counts()[0] == 3
        await close(writers)
        while workers.counts()[0]:
            await asyncio.sleep(0.01)
        workers.acceptors[0].close()
        return workers.counts()

    assert play(steps) == [CLOSED, 0]


def test_connections_of_a_slot_are_its_own_word():
    slot = Slot(memoryview(bytearray(SLOT_BYTES)))
    slot.open()
    slot.connections = 7
    slot.beat()
    assert (slot.connections, slot.beats) == (7, 1)
    assert list(slot.samples()) == []
