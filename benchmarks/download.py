"""How fast `localllm pull` moves bytes, beside huggingface_hub's own plain-HTTP download.

Both fetch the same file from the same server on loopback (the tests' Hub, in a process of its
own), in turns, each time to an empty directory. Ours hashes every byte, compares the sha256 and
forces the file to the disk; `hf_hub_download` compares the size. Prints the rates and their ratio.

    python benchmarks/download.py [--size 1GiB] [--rounds 5] [--connections 1] [--dir DIR]

The ratio is that of the medians; the server and both clients share the machine's processors, so
the rates say little about a real link and much about what a client costs.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from localllm.core.units import format_bandwidth, format_bytes, parse_bytes  # noqa: E402
from localllm.library.download.downloader import download  # noqa: E402
from localllm.library.download.target import DownloadTarget  # noqa: E402
from localllm.library.http.client import Access  # noqa: E402

Took = tuple[float, float]
"""Seconds by the clock, and of processor time in this process."""
REPO, FILE = "bench/model", "model.gguf"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=parse_bytes, default=2**30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=None, help="where to write (default: temp)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as scratch:
        _compare(Path(scratch), given.size, given.rounds, given.connections)


def _compare(scratch: Path, size: int, rounds: int, connections: int) -> None:
    served = scratch / "served" / REPO / FILE
    served.parent.mkdir(parents=True)
    _write(served, size)
    command = [sys.executable, "-m", "tests.hub", str(scratch / "served")]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        peer = _peer(endpoint)  # first: it reads its settings while it is imported
        commit, sha256 = _listed(endpoint)

        def ours(place: Path) -> None:
            wanted = DownloadTarget(
                repo=REPO, commit=commit, name=FILE, size_bytes=size, sha256=sha256,
                path=place / FILE,
            )  # fmt: skip
            download([wanted], Access(endpoints=(endpoint,)), connections=connections)

        times = _in_turns(scratch, {"localllm": ours, "huggingface_hub": peer}, rounds)
    finally:
        server.terminate()
        server.wait()
    _report(size, connections, times)


def _peer(endpoint: str) -> Callable[[Path], None]:
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()

    def theirs(place: Path) -> None:
        hf_hub_download(REPO, FILE, local_dir=place, endpoint=endpoint, token=False)

    return theirs


def _listed(endpoint: str) -> tuple[str, str]:
    """The commit and the sha256 of the file, as the Hub lists them.

    Asked with the peer's own client: localllm's would put its own in the peer's place.
    """
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint, token=False).model_info(REPO, files_metadata=True)
    assert info.sha
    assert info.siblings
    assert info.siblings[0].lfs
    return info.sha, info.siblings[0].lfs.sha256


def _in_turns(
    scratch: Path, clients: dict[str, Callable[[Path], None]], rounds: int
) -> dict[str, list[Took]]:
    """What each client's downloads took; the first round warms up and does not count."""
    times: dict[str, list[Took]] = {name: [] for name in clients}
    for each in range(rounds + 1):
        for name, client in clients.items():
            place = scratch / name
            place.mkdir()
            os.sync()
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            client(place)
            took = (time.perf_counter() - began_s, time.process_time() - began_cpu_s)
            if each:
                times[name].append(took)
            shutil.rmtree(place)
    return times


def _report(size: int, connections: int, times: dict[str, list[Took]]) -> None:
    print(f"{format_bytes(size)} over loopback, {connections} connection(s) of localllm")
    medians = {name: statistics.median(each for each, _ in took) for name, took in times.items()}
    for name, took in times.items():
        rates = ", ".join(format_bandwidth(size / seconds) for seconds, _ in took)
        cpu_s = statistics.median(each for _, each in took)
        median = format_bandwidth(size / medians[name])
        print(f"{name:16} {median:>9}  CPU {cpu_s:.2f} s  ({rates})")
    print(f"ratio            {medians['huggingface_hub'] / medians['localllm']:.2f}")


def _write(path: Path, size: int) -> None:
    block = random.Random(0).randbytes(2**20)
    with path.open("wb") as out:
        for left in range(size, 0, -len(block)):
            out.write(block[:left])


if __name__ == "__main__":
    main()
