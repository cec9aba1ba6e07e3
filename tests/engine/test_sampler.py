"""Every stage of the sampler chain does what its name says, on the logits of a tiny model."""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from localllm.engine.messages import GenerateRequest, Sampling, Token
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.model import BatchToken
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.sampling import logits, sampler
from localllm.engine.worker.sampling.sampler import Sampler
from tests.engine import native, tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings

OPEN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
"""Nothing is narrowed: every token can be drawn."""

SEEDS = range(120)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(
        tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf"), settings(parallel=1)
    )
    yield stepped
    stepped.close()


@pytest.fixture
def row(stepped: SteppedScheduler) -> Iterator[npt.NDArray[np.float64]]:
    """The logits after a prompt of a few tokens: output row 0 for every sampler of a test."""
    model = stepped.model
    stepped.scheduler.kv_cache.clear(0)
    tokens = model.vocab.tokenize("The sky", special=False)
    last = len(tokens) - 1
    model.decode([BatchToken(each, at, 0, at == last) for at, each in enumerate(tokens)])
    yield logits.logits_of(model.handle, -1, model.vocab.size).astype(np.float64)
    model.remove_cells(0)


def draws(stepped: SteppedScheduler, sampling: Sampling, seeds: range = SEEDS) -> list[int]:
    """One draw per seed, always from the last row of the last batch."""
    found = []
    for seed in seeds:
        sampler = Sampler(replace(sampling, seed=seed), stepped.model.vocab)
        found.append(sampler.sample(stepped.model.handle, -1))
        sampler.close()
    return found


def probabilities(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    exponents: npt.NDArray[np.float64] = np.exp(row - row.max())
    chances: npt.NDArray[np.float64] = exponents / exponents.sum()
    return chances


def test_an_open_chain_draws_many_tokens(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64]
) -> None:
    assert len(set(draws(stepped, OPEN))) > 20


def test_a_bias_forces_or_forbids_a_token(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64]
) -> None:
    favourite = int(row.argmax())
    assert set(draws(stepped, replace(OPEN, logit_bias=((5, 100.0),)))) == {5}
    greedy = replace(OPEN, temperature=0.0)
    assert set(draws(stepped, greedy)) == {favourite}
    assert favourite not in draws(stepped, replace(greedy, logit_bias=((favourite, -100.0),)))


def test_top_n_sigma_keeps_what_is_near_the_best(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64]
) -> None:
    allowed = set(np.flatnonzero(row >= row.max() - 1.0 * row.std()).tolist())
    assert 1 < len(allowed) < 40
    found = set(draws(stepped, replace(OPEN, top_n_sigma=1.0)))
    assert found <= allowed
    assert len(found) > 1


def test_typical_keeps_what_is_as_surprising_as_expected(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64]
) -> None:
    chances = probabilities(row)
    entropy = -(chances * np.log(chances)).sum()
    order = np.argsort(np.abs(-np.log(chances) - entropy))
    count = int(np.searchsorted(np.cumsum(chances[order]), 0.3)) + 1
    assert set(draws(stepped, replace(OPEN, typical_p=0.3))) <= set(order[:count].tolist())


def test_xtc_leaves_out_the_likeliest_but_the_last_above_the_threshold(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64]
) -> None:
    chances = probabilities(row)
    ordered = np.argsort(-chances)
    threshold = float(chances[ordered[3]]) * 0.999
    found = draws(stepped, replace(OPEN, xtc_probability=1.0, xtc_threshold=threshold))
    assert not set(ordered[:3].tolist()) & set(found)
    assert int(ordered[3]) in draws(
        stepped,
        replace(OPEN, top_k=4, xtc_probability=1.0, xtc_threshold=threshold),
    )


def test_a_dynamic_temperature_is_the_one_that_the_entropy_gives(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64]
) -> None:
    chances = probabilities(np.sort(row)[-20:])
    share = -(chances * np.log(chances)).sum() / np.log(len(chances))
    temperature = 0.5 + 1.0 * share**2  # from 0.5 to 1.5, exponent 2 (llama_sampler_temp_ext)
    sorted_first = replace(OPEN, top_k=20)  # so that both chains draw from one order
    dynamic = replace(sorted_first, temperature=1.0, dynatemp_range=0.5, dynatemp_exponent=2.0)
    same = np.array(draws(stepped, dynamic)) == draws(
        stepped, replace(sorted_first, temperature=float(temperature))
    )
    assert same.mean() > 0.97  # a draw on the border may fall to the other side
    assert not np.array_equal(draws(stepped, dynamic), draws(stepped, sorted_first))


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_aims_at_a_surprise(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64], version: int
) -> None:
    mirostat = replace(OPEN, mirostat=version)
    assert draws(stepped, mirostat) == draws(stepped, mirostat)
    calm = draws(stepped, replace(mirostat, mirostat_tau=0.01))
    wild = draws(stepped, replace(mirostat, mirostat_tau=5.0))
    assert set(calm) == {int(row.argmax())}
    assert len(set(wild)) > 5


def test_dry_ends_a_loop(stepped: SteppedScheduler) -> None:
    loop = "abcdefgh" * 4
    plain = Sampling(temperature=0.0)
    looping = ask(stepped, "plain", loop, plain)
    dry = ask(stepped, "dry", loop, replace(plain, dry_multiplier=50.0, dry_allowed_length=2))
    assert longest_repeat(looping) > 4
    assert longest_repeat(dry) <= 4


def ask(stepped: SteppedScheduler, request_id: str, prompt: str, sampling: Sampling) -> str:
    request = GenerateRequest(
        request_id=request_id, prompt=prompt, sampling=sampling, max_tokens=40, ignore_eos=True
    )
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize(prompt, special=False)), 0.0
    )
    stepped.run()
    return stepped.text(request_id)


def longest_repeat(text: str) -> int:
    """Length of the longest run of characters that comes twice."""
    return max(
        length
        for length in range(len(text))
        if any(text[at : at + length] in text[at + 1 :] for at in range(len(text) - length))
    )


def test_log_probabilities_are_those_of_the_logits(row: npt.NDArray[np.float64]) -> None:
    own, top = logits.logprobs(row.astype(np.float32), 7, 5)
    expected = np.log(probabilities(row))
    assert own == pytest.approx(expected[7], abs=1e-5)
    assert [token for token, _ in top] == np.argsort(-row, kind="stable")[:5].tolist()
    assert [value for _, value in top] == pytest.approx(np.sort(expected)[::-1][:5], abs=1e-5)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_the_likeliest_tokens_are_those_of_a_whole_sort(size: int) -> None:
    dice = np.random.default_rng(size)
    for values in (dice.normal(0, 5, size), np.zeros(size), dice.integers(0, 3, size)):
        row = values.astype(np.float32)
        for top in (1, 5, 20):
            assert logits.top_tokens(row, top) == np.argsort(-row, kind="stable")[:top].tolist()


def test_as_many_log_probabilities_as_the_vocabulary_has_are_no_error() -> None:
    own, top = logits.logprobs(np.zeros(3, np.float32), 1, 3)
    assert [token for token, _ in top] == [0, 1, 2]
    assert np.exp(own) == pytest.approx(1 / 3)


def test_tokens_carry_the_log_probabilities_that_were_asked_for(stepped: SteppedScheduler) -> None:
    request = GenerateRequest(
        request_id="logprobs",
        prompt="Hello",
        sampling=Sampling(temperature=0.0),
        max_tokens=4,
        ignore_eos=True,
        top_logprobs=3,
    )
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize("Hello", special=False)), 0.0
    )
    stepped.run()
    tokens = [e for e in stepped.events if isinstance(e, Token) and e.request_id == "logprobs"]
    assert len(tokens) == 4
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob == token.top_logprobs[0]  # greedy: the likeliest
        assert len(token.top_logprobs) == 3
        assert token.logprob.text == token.text
        assert sum(np.exp([each.logprob for each in token.top_logprobs])) <= 1


def test_an_answer_has_at_least_the_tokens_that_were_asked_for(stepped: SteppedScheduler) -> None:
    prompt = stepped.model.vocab.tokenize("Hello", special=False)
    first = ask(stepped, "first", "Hello", Sampling(temperature=0.0))
    stop = stepped.model.vocab.tokenize(first[0], special=False)[-1]
    request = GenerateRequest(
        request_id="none",
        prompt="Hello",
        sampling=Sampling(temperature=0.0),
        max_tokens=40,
        stop_tokens=(stop,),
    )
    stepped.scheduler.submit(request, Prompt(tokens=prompt), 0.0)
    at_least = replace(request, request_id="some", min_tokens=5)
    stepped.scheduler.submit(at_least, Prompt(tokens=prompt), 0.0)
    stepped.run()
    assert stepped.text("none") == ""
    assert len(stepped.text("some")) >= 5
    assert first[0] not in stepped.text("some")[:5]


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("bias", [(), ((3, 100.0),)], ids=["plain", "with a bias"])
def test_what_is_greedy_takes_what_the_chain_would(
    stepped: SteppedScheduler, bias: tuple[tuple[int, float], ...]
) -> None:
    model = stepped.model
    sampling = Sampling(temperature=0.0, logit_bias=bias)
    sampler = Sampler(sampling, model.vocab)
    found = logits.logits_of(model.handle, -1, model.vocab.size)
    by_chain = sampler.sample_among(found, np.arange(model.vocab.size))
    assert sampler.sample(model.handle, -1) == by_chain
    sampler.close()


@pytest.mark.parametrize("seed", range(6))
def test_penalties_on_a_few_tokens_are_those_on_the_whole_vocabulary(
    stepped: SteppedScheduler, row: npt.NDArray[np.float64], seed: int
) -> None:
    dice = random.Random(seed)
    model = stepped.model
    recent = [dice.randrange(model.vocab.size) for _ in range(20)] * 3
    asked = replace(
        OPEN,
        seed=seed,
        logit_bias=((recent[0], 2.0), (recent[1], -3.0)),
        repeat_penalty=1.3,
        frequency_penalty=0.4,
        presence_penalty=-0.2,
        penalty_last_n=30,
        dry_multiplier=0.8,
        dry_penalty_last_n=64,
    )
    ours = Sampler(asked, model.vocab)
    ours.accept_prompt(recent)
    whole = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    biases = (llama.llama_logit_bias * 2)(
        *(llama.llama_logit_bias(*each) for each in asked.logit_bias)
    )
    for stage in (
        native.llama_sampler_init_logit_bias(model.vocab.size, 2, biases),
        *sampler._adjustments(asked, model.vocab),
        *sampler._selection(asked, seed, model.vocab.size),
    ):
        llama.llama_sampler_chain_add(whole, stage)
    for token in recent:
        llama.llama_sampler_accept(whole, token)
    for _ in range(40):
        expected = llama.llama_sampler_sample(whole, model.handle, -1)
        assert ours.sample(model.handle, -1) == expected
    assert (logits.logits_of(model.handle, -1, model.vocab.size) == row).all()
    ours.close()
    llama.llama_sampler_free(whole)
