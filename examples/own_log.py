"""Train and serve a re-ranker on a log of your own: prepare, train, export, serve, ask.

    python examples/own_log.py [OUT] [PORT]

Run it from the repository root in the environment of `make setup`. It writes a small synthetic log
to OUT (default build/own_log), so replace `write_log` by an export of yours. `--smoke` trains a
miniature in a minute to show the commands; leave it out for a model that is worth serving.
"""

import csv
import random
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from rerank_client import Client

SCHEMA = """\
name: shop
label: {range: [0, 1]}
history: {limit: 32, kernels: [aisle], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10, relative: true}
  - {name: aisle, of: item, kind: categories, width: 1}
  - {name: price, of: candidate, kind: number, transform: log}
"""
AISLES = ("tea", "paper", "garden")
ITEMS = {f"{aisle}-{number}": aisle for aisle in AISLES for number in range(12)}

CANDIDATES = ("tea-1", "paper-2", "garden-3")


def write_log(path: Path, users: int = 60, lists_per_user: int = 4, list_size: int = 8) -> None:
    """Write one row per shown candidate. Each user prefers one aisle."""
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["request_id", "user_id", "timestamp", "position", "item_id", "label", "aisle", "price"]
        )
        for number in range(users * lists_per_user):
            user = number % users
            for position, item in enumerate(rng.sample(sorted(ITEMS), list_size)):
                likes = rng.random() < (0.7 if ITEMS[item] == AISLES[user % 3] else 0.1)
                writer.writerow(
                    [f"r{number}", f"u{user}", 1_700_000_000_000 + 60_000 * number, position, item,
                     int(likes), ITEMS[item], round(rng.uniform(1, 20), 2)]
                )  # fmt: skip


def run(*arguments: str) -> None:
    print("$ python -m", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def wait_until_ready(url: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main(out: str = "build/own_log", port: str = "8010") -> None:
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    log, schema = directory / "log.csv", directory / "schema.yaml"
    write_log(log)
    schema.write_text(SCHEMA, encoding="utf-8")
    data, checkpoint = str(directory / "data"), str(directory / "checkpoint")
    bundle = str(directory / "models" / "shop" / "1")
    run("model", "prepare", "impressions",
        "--log", str(log), "--schema", str(schema), "--out", data)  # fmt: skip
    run("model", "train", "--config", "model/configs/ranklens.yaml", "--data", data,
        "--out", checkpoint, "--smoke")  # fmt: skip
    run("export", "--checkpoint", checkpoint, "--out", bundle)

    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "service", "--bundle", bundle, "--port", port]
    service = subprocess.Popen(command)
    try:
        wait_until_ready(url)
        with Client(url) as client:
            candidates = [{"id": item, "features": {"price": 5}} for item in CANDIDATES]
            response = client.rerank(candidates, user={"history": ["tea-4", "tea-5"]})
        print("slate:", *response.ids, "degraded:", response.degraded)
    finally:
        service.terminate()
        service.wait(30)


if __name__ == "__main__":
    main(*sys.argv[1:])
