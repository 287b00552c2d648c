"""A proxy that ends TLS with a self-signed certificate, as an ingress does."""

import asyncio
import contextlib
import ssl
import subprocess
import threading

import httpx


def self_signed(directory):
    """Write certificate and key for 127.0.0.1 into a directory and return their paths."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@contextlib.contextmanager
def tls_proxy(url, certificate, key):
    """Yield the https URL of a proxy to `url`, and the addresses of its TLS connections.

    The list has a connection once its handshake succeeded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    address, connections, writers = httpx.URL(url), [], []

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def forward(reader, writer):
        connections.append(writer.get_extra_info("peername"))
        writers.append(writer)
        far_reader, far_writer = await asyncio.open_connection(address.host, address.port)
        writers.append(far_writer)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def end():
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # a cancelled pump leaves its writer open

    server = run(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    finally:
        run(end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
