"""Run a command in a network namespace of its own and record where it tries to connect.

`run` starts this file under `unshare`. The namespace has nothing but loopback. Every name resolves
to an address at which a listener records the first bytes of each connection, as a TLS server would
see them, and the kernel counts packets to other addresses, which have no route.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
ADDRESS = "127.9.9.9"  # what every name resolves to
PORTS = (80, 443, 4317, 4318)
SET_FLAGS, UP = 0x8914, 0x1  # ioctl SIOCSIFFLAGS, IFF_UP


def available():
    """Report whether this machine allows unprivileged network and mount namespaces."""
    if shutil.which("unshare") is None or not Path("/etc/resolv.conf").exists():
        return False
    try:
        return run([sys.executable, "-c", ""], 0)["status"] == 0
    except (subprocess.SubprocessError, ValueError):
        return False


def run(command, seconds, home=None, **environment):
    """Run a command for at most `seconds` in the namespace and return the record.

    0 seconds means until the command ends. The command gets SIGTERM at the end, and a home
    directory of its own. Variables that could turn telemetry off, or proxies on, are removed.

    Returns {"names": resolved names, "connections": [port, first bytes in hex] each,
    "unroutable": packets without a route, "status", "output"}.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if "TELEMETRY" not in name
        and "TRACK" not in name
        and not name.lower().endswith("_proxy")
        and name not in ("CI", "TF_BUILD", "GITHUB_ACTIONS")  # onnxruntime spares some of these
    }
    with tempfile.TemporaryDirectory() as directory:
        variables = {**kept, "HOME": str(home or directory), **environment}
        script = [sys.executable, str(Path(__file__).resolve()), directory, str(seconds)]
        done = subprocess.run(
            [*UNSHARE, *script, *command],
            env=variables, capture_output=True, text=True, timeout=seconds + 240, check=True,
        )  # fmt: skip
    return json.loads(done.stdout)


def raise_loopback():
    with socket.socket() as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


def answer_names(names):
    """Answer every DNS query for an IPv4 address with ADDRESS, and record its name."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def loop():
        while True:
            query, client = server.recvfrom(4096)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            names.append(".".join(labels))
            question, wants_ipv4 = query[12 : at + 5], query[at + 1 : at + 3] == b"\0\1"
            head = query[:2] + b"\x81\x80\0\1" + struct.pack(">HHH", wants_ipv4, 0, 0)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(ADDRESS)
            server.sendto(head + question + (record if wants_ipv4 else b""), client)

    threading.Thread(target=loop, daemon=True).start()


def record_connections(port, connections):
    """Accept connections to a port of ADDRESS, record their first bytes and close them."""
    listener = socket.create_server((ADDRESS, port))

    def loop():
        while True:
            connection = listener.accept()[0]
            connection.settimeout(2)
            try:
                first = connection.recv(3)
            except OSError:
                first = b""
            connections.append([port, first.hex()])
            connection.close()

    threading.Thread(target=loop, daemon=True).start()


def unroutable():
    """Return the number of packets that had no route since the namespace was made."""
    names, values = (
        line.split()[1:]
        for line in Path("/proc/net/snmp").read_text().splitlines()
        if line.startswith("Ip:")
    )
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"])


def main():
    directory, seconds, *command = sys.argv[1:]
    raise_loopback()
    configuration = Path(directory) / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(configuration), "/etc/resolv.conf"], check=True)
    names: list[str] = []
    connections: list[list[object]] = []
    answer_names(names)
    for port in PORTS:
        record_connections(port, connections)
    with (Path(directory) / "output").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            process.wait(float(seconds) or None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        time.sleep(0.2)  # for the listeners' threads
        output.seek(0)
        record = {
            "names": names, "connections": connections, "unroutable": unroutable(),
            "status": process.returncode, "output": output.read(),
        }  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    main()
