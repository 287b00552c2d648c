"""The fuzzer's client closes its connections, whatever is left to send."""

import asyncio

from loadtest.fuzz.transport import Client

LARGE = b"x" * (8 << 20)  # more than the buffers of the sockets hold


async def end_after(seconds_of_reading):
    """Close a client that has bytes to send, then end it; return the unsent bytes before the end.

    The server reads only if seconds_of_reading is above 0.
    """
    closed, served = asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        if seconds_of_reading:
            await reader.read(-1)
        await closed.wait()
        writer.transport.abort()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}")
    _, writer = await client._open()
    transport = writer.transport
    writer.write(LARGE)
    client.close()
    until = asyncio.get_running_loop().time() + seconds_of_reading
    while transport.get_write_buffer_size() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)
    unsent = transport.get_write_buffer_size()
    await asyncio.sleep(0)  # a transport that has sent everything leaves the event loop here
    client.end()
    closed.set()
    await served.wait()
    server.close()
    return unsent


def test_a_client_ends_after_a_closed_connection_has_sent_its_bytes():
    assert asyncio.run(end_after(60)) == 0


def test_a_client_drops_the_bytes_that_a_closed_connection_could_not_send():
    assert asyncio.run(end_after(0)) > 0
