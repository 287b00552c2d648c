"""python -m loadtest peers: this service among the servers that a team would use instead.

The same bundle, the same requests, the same two cores: each server is started, its answers are
compared with ours, then the highest rate is searched for that keeps p99 within the bound. In
rounds, one search of each server a round, so that a change of the machine touches all. Half of a
round's capacity gives the percentiles; a last round asks ours and the best of the others for the
same rate. What a list costs is the CPU time of the whole machine less the generator's. Writes
peers.{json,md,png}; --install makes the environments first. Interrupted, it goes on where it was
when it is given the same command on the same commit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from loadtest.capacity import Bound, capacity
from loadtest.generators import Generators, generators
from loadtest.results import Load, machine
from loadtest.scenarios import Asking, Catalogue, Scenario, scenario
from loadtest.server import ServerError, serving
from peers import PEERS, Peer
from peers.report import OURS, plot, written
from peers.work import Work

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "build" / "peers"
START_S = 180.0
OUR_SETTINGS = (
    "A worker per core, everything else as by default: its runs are made on its event loop "
    "(RERANK_BRIEF_RUN_MS), of at most 16 lists."
)
PIP = "26.1"
TURN_S, WARM_UP_S = 8.0, 1.0  # at one rate
ALONE, ALONE_S = (1, 2, 4, 8, 16), 2.0  # lists in a run of the work alone, and how long each
DIGITS = 1e-4  # of logprob and entropy: torch adds up in another order


def main(arguments: Sequence[str]) -> int:
    """Measure and write; exit status 1 where answers differ or a generator was the bottleneck."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest peers", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--only", nargs="+", default=[peer.module for peer in PEERS],
                        choices=[peer.module for peer in PEERS], help="these peers")  # fmt: skip
    parser.add_argument("--p99-ms", type=float, default=30.0, help="the bound")
    parser.add_argument("--seconds", type=float, default=4.0, help="at each rate")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each server")
    parser.add_argument("--out", type=Path, help="where to write; without it docs/reports, or "
                        "build/peers where not all are asked")  # fmt: skip
    asked = parser.parse_args(arguments)
    peers = [peer for peer in PEERS if peer.module in asked.only]
    if asked.out is None:
        asked.out = Path("docs/reports") if len(peers) == len(PEERS) else ENVIRONMENTS
    try:
        for peer in peers if asked.install else ():
            install(peer)
        progress = Progress(asked, [OURS, *(peer.name for peer in peers)])
        report = measure(peers, asked, progress)
    except (OSError, KeyError, ValueError, ServerError, subprocess.CalledProcessError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (asked.out / "peers.md").write_text(written(report), "utf-8")
    plot(report, asked.out / "peers.png")
    progress.end()
    print(written(report))
    wrong = [row for row in report["rows"] if row["same_answers"] is False or row["void"]]
    return 1 if wrong else 0


def install(peer: Peer) -> None:
    """Make a peer's environment unless it is there. Raises CalledProcessError."""
    home = ENVIRONMENTS / peer.module
    pins = ROOT / "peers" / peer.requirements
    done = home / ".installed"
    if peer.environment is not None or (done.exists() and done.read_text() == pins.read_text()):
        return
    run = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([peer.python, "-m", "venv", "--clear", str(home)], check=True)
    subprocess.run([*run, f"pip=={PIP}"], check=True)
    subprocess.run([*run, "--requirement", str(pins)], check=True)
    done.write_text(pins.read_text())


@contextlib.contextmanager
def started(peer: Peer, bundle: Path) -> Iterator[str]:
    """A peer's server on a free port, ready; its URL. Raises ServerError with what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = peer.environment or ENVIRONMENTS / peer.module
    python = home / "bin" / "python"
    if not python.exists():
        raise ServerError(f"{peer.name}: {python} is missing; --install makes it")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(python), "-m", f"peers.{peer.module}", f"--bundle={bundle}",
             f"--port={port}"],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + START_S
            while not answers(url + peer.ready):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    said = log.read().decode("utf-8", "replace")[-2000:]
                    raise ServerError(f"{peer.name} did not start: {said}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):  # children that it left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    """Whether a GET comes back with 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def measure(peers: Sequence[Peer], asked: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """All rounds, or those that an interrupted run has left."""
    what = scenario("ids", Catalogue.of(asked.bundle), Asking(50))
    bound = Bound(asked.p99_ms)
    names = [OURS, *(peer.name for peer in peers)]
    found = progress.found
    with generators(1) as sending:
        searches = [
            (name, peer)
            for number in range(asked.rounds)
            for name, peer in zip(names, (None, *peers), strict=True)
            if number >= len(found[name])
        ]
        with ours(asked.bundle) as url:
            expected = [asking(url, what.path, body) for body in what.bodies]
        for name, peer in (bar := tqdm(searches, unit="search")):
            bar.set_postfix_str(name)
            own = found[name]
            start = max(1.0, own[-1]["rate"] * 0.9) if own else 50.0
            with ours(asked.bundle) if peer is None else started(peer, asked.bundle) as url:
                sent, same = what if peer is None else wrapped(what, peer), None
                if peer is not None and peer.same_model:
                    got = (asking(url, peer.path, body) for body in sent.bodies)
                    told = [json.loads(peer.answer(content)) for content in got]
                    same = all(map(alike, map(json.loads, expected), told))
                searched = capacity(sending, url, sent, bound, asked.seconds, 1, start)
                (rate,) = searched.rates
                half = at(sending, url, sent, rate / 2)
                own.append({"rate": rate, "void": searched.void, "same": same, **half})
            progress.save()
        rival = max((p for p in peers if p.same_model), default=None,
                    key=lambda p: mean_of(found[p.name], "rate"))  # fmt: skip
        equal = None if rival is None else side_by_side(sending, rival, what, found, asked)
        alone = work_alone(asked.bundle, what.bodies)
    rows = [row(name, peer, found[name]) for name, peer in zip(names, (None, *peers), strict=True)]
    return {
        "command": f"python -m loadtest peers --seconds {asked.seconds:g} --rounds {asked.rounds}",
        "machine": machine(), "p99_ms": asked.p99_ms, "candidates": 50,
        "ours_over_best": None if rival is None else ratio(found[OURS], found[rival.name]),
        "equal_load": equal, "work_alone": alone, "rows": rows,
    }  # fmt: skip


class Progress:
    """What each server's rounds have found, kept in a file until the report is written.

    Of another question or other code nothing is taken up, nor of code that no commit names.

    found: by server, one dict a round: rate, void, same and the figures of `at`.
    """

    def __init__(self, asked: argparse.Namespace, names: Sequence[str]) -> None:
        self._path = ENVIRONMENTS / "progress.json"
        code = version(None)
        self._of = [code, asked.rounds, asked.seconds, asked.p99_ms, str(asked.bundle), *names]
        self.found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        with contextlib.suppress(OSError, ValueError, KeyError):
            kept = json.loads(self._path.read_text("utf-8"))
            if kept["of"] == self._of and not code.endswith(("-dirty", "unknown")):
                self.found = kept["found"]

    def save(self) -> None:
        """After each search."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"of": self._of, "found": self.found}
        written = self._path.with_suffix(".part")
        written.write_text(json.dumps(kept), "utf-8")
        written.replace(self._path)

    def end(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def ours(bundle: Path) -> Iterator[str]:
    """This service, as thoughtful under load as at rest: the peers cannot be less."""
    with serving(bundle, "--workers=2", adaptive_budget="false") as server:
        yield server.url


def wrapped(what: Scenario, peer: Peer) -> Scenario:
    """The same requests as the peer takes them."""
    bodies = [peer.body(body) for body in what.bodies]
    return dataclasses.replace(what, path=peer.path, bodies=bodies)


def asking(url: str, path: str, body: bytes) -> bytes:
    """One answer. Raises ServerError for another status than 200."""
    answer = httpx.post(
        url + path, content=body, headers={"Content-Type": "application/json"}, timeout=30
    )
    if answer.status_code != 200:
        raise ServerError(f"{url}{path}: {answer.status_code} {answer.text[:500]}")
    return answer.content


def alike(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two answers are the same slate, with the same figures."""
    if len(ours["slate"]) != len(theirs["slate"]):
        return False
    for mine, other in zip(ours["slate"], theirs["slate"], strict=True):
        if any(mine[k] != other[k] for k in ("id", "position", "reasoning_steps")):
            return False
        if any(abs(mine[k] - other[k]) > DIGITS for k in ("logprob", "entropy", "entropy_after")):
            return False
    return bool(ours["reasoning"]["steps_used"] == theirs["reasoning"]["steps_used"])


def at(
    sending: Generators, url: str, what: Scenario, rate: float, seed: int = 0
) -> dict[str, float]:
    """At a rate: p50_ms, p99_ms, and cpu_ms of a request, of all processes but the generator.

    Raises ServerError where a request failed or was not ranked.
    """
    load = Load(max(rate, 1.0), TURN_S, WARM_UP_S, seed)
    before = busy_s()
    run = sending.offer(url, what, load)
    whole = TURN_S + WARM_UP_S
    spent = busy_s() - before - run.busy * whole
    if run.failed or run.unranked:
        raise ServerError(f"{url}: {run.failed} failed, {run.unranked} not ranked at {rate:.0f}/s")
    return {
        "load": load.rate, "p50_ms": run.latency_ms(0.5), "p99_ms": run.latency_ms(0.99),
        "cpu_ms": 1e3 * spent / (load.rate * whole),
    }  # fmt: skip


def busy_s(stat: Path = Path("/proc/stat")) -> float:
    """Seconds that this machine's cores have worked so far."""
    told = stat.read_text("ascii").splitlines()[0].split()[1:8]
    user, nice, system, _, _, irq, soft = map(int, told)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def work_alone(bundle: Path, bodies: Sequence[bytes]) -> list[dict[str, float]]:
    """CPU milliseconds of a list without any server, by lists in a run."""
    work, found = Work(bundle), []
    for lists in ALONE:
        spent, count, end = np.zeros(3), 0, time.monotonic() + ALONE_S
        while time.monotonic() < end:
            contents = [bodies[(count + i) % len(bodies)] for i in range(lists)]
            marks = [time.process_time()]
            asked = [work.parse(content) for content in contents]
            marks.append(time.process_time())
            slates = work.run(asked)
            marks.append(time.process_time())
            for each, slate in zip(asked, slates, strict=True):
                work.respond(each, slate)
            marks.append(time.process_time())
            spent += np.diff(marks)
            count += lists
        parse, run, respond = (round(1e3 * float(s) / count, 3) for s in spent)
        found.append({"lists": lists, "parse_ms": parse, "run_ms": run, "respond_ms": respond})
    return found


def counted(url: str) -> dict[str, float]:
    """Of our metrics: CPU seconds in runs, lists and runs so far."""
    text = httpx.get(f"{url}/metrics", timeout=10).text
    names = {
        "run_s": "inference_cpu_seconds_total",
        "lists": "batch_size_sum",
        "runs": "batch_size_count",
    }
    return {
        key: sum(map(float, re.findall(rf"^rerank_{name}(?:\{{.*\}})? (\S+)$", text, re.M)))
        for key, name in names.items()
    }


def side_by_side(
    sending: Generators,
    rival: Peer,
    what: Scenario,
    found: dict[str, dict[str, list[Any]]],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Ours and the best of the others at half of the other's capacity, in turns."""
    rate = mean_of(found[rival.name], "rate") / 2
    told: dict[str, list[dict[str, float]]] = {OURS: [], rival.name: []}
    for turn in range(asked.rounds):
        sides = [(OURS, ours(asked.bundle), what)]
        sides.append((rival.name, started(rival, asked.bundle), wrapped(what, rival)))
        for name, server, sent in sides if turn % 2 == 0 else reversed(sides):
            with server as url:
                before = counted(url) if name == OURS else {}
                seen = at(sending, url, sent, rate, seed=turn)
                if name == OURS:
                    more = {key: value - before[key] for key, value in counted(url).items()}
                    seen["run_cpu_ms"] = 1e3 * more["run_s"] / more["lists"]
                    seen["lists_a_run"] = more["lists"] / more["runs"]
                told[name].append(seen)
    return {
        "load_rps": round(rate, 1),
        **{
            name: {
                key: summary([each[key] for each in seen], 3) for key in seen[0] if key != "load"
            }
            for name, seen in told.items()
        },
    }


def mean_of(rounds: Sequence[dict[str, Any]], key: str) -> float:
    """Of a server's rounds."""
    return float(np.mean([each[key] for each in rounds]))


def summary(values: Sequence[float], digits: int) -> list[float]:
    """Mean, least and greatest."""
    return [round(float(v), digits) for v in (np.mean(values), min(values), max(values))]


def ratio(mine: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> list[float]:
    """Of capacities, round by round: mean, least and greatest."""
    pairs = [(a["rate"], b["rate"]) for a, b in zip(mine, other, strict=True)]
    return summary([a / b if b else float("inf") for a, b in pairs], 3)


def row(name: str, peer: Peer | None, own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One server's line."""
    mean, low, high = summary([each["rate"] for each in own], 1)
    same = [each["same"] for each in own if each["same"] is not None]
    return {
        "server": name, "version": version(peer),
        "capacity_rps": mean, "low": low, "high": high,
        "p50_ms": round(mean_of(own, "p50_ms"), 2), "p99_ms": round(mean_of(own, "p99_ms"), 2),
        "load_rps": round(mean_of(own, "load"), 1), "cpu_ms": round(mean_of(own, "cpu_ms"), 3),
        "settings": OUR_SETTINGS if peer is None else peer.settings,
        "same_answers": all(same) if same else None,
        "void": next((each["void"] for each in own if each["void"]), None),
    }  # fmt: skip


def version(peer: Peer | None) -> str:
    """Of the server: what its environment pins. Ours: the commit."""
    if peer is None:
        told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT,
                              capture_output=True, text=True, check=False)  # fmt: skip
        return told.stdout.strip() or "unknown"
    pins = (ROOT / "peers" / peer.requirements).read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in pins if "==" in line and line[0] != "#")
    return pinned[peer.distribution]
