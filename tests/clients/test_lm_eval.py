"""lm-evaluation-harness scores log-likelihoods here, with this server's own tokenizer."""

import json
from pathlib import Path

import httpx
import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

from tests.clients.conftest import Served

pytestmark = pytest.mark.clients

QUESTIONS = (
    ("The capital of France is", (" Paris", " Berlin", " a banana"), 0),
    ("Two plus two is", (" nine", " four"), 1),
    ("Water is made of hydrogen and", (" oxygen", " cheese"), 0),
)
TASK = """
task: own_questions
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture
def model(served: Served, monkeypatch: pytest.MonkeyPatch) -> LocalCompletionsAPI:
    monkeypatch.setenv("OPENAI_API_KEY", served.key)
    return LocalCompletionsAPI(
        model=served.model,
        base_url=f"{served.url}/v1/completions",
        tokenizer_backend="remote",
        auth_token=served.key,
        max_length=1024,
    )


def test_a_task_of_one_s_own_runs_without_a_downloaded_tokenizer(
    model: LocalCompletionsAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": q, "choices": list(c), "answer": a} for q, c, a in QUESTIONS]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.yaml").write_text(TASK % data)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=["own_questions"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results["results"]["own_questions"]["acc,none"] >= 2 / 3
    assert len(results["samples"]["own_questions"]) == len(QUESTIONS)


def test_its_log_likelihood_is_that_of_the_engine(
    model: LocalCompletionsAPI, served: Served
) -> None:
    context, continuation = "The capital of France is", " Paris"
    tokens = model.tok_encode(context + continuation)
    assert model.decode_batch([tokens]) == [context + continuation]
    (got,) = model._loglikelihood_tokens(
        [((context, continuation), model.tok_encode(context), model.tok_encode(continuation))],
        disable_tqdm=True,
    )
    answer = httpx.post(
        f"{served.url}/v1/completions",
        headers={"Authorization": f"Bearer {served.key}"},
        json={"prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 0},
        timeout=60,
    )
    own = answer.json()["choices"][0]["logprobs"]["token_logprobs"][-1]
    assert got[0] == pytest.approx(own, abs=1e-3)
    assert own < 0
