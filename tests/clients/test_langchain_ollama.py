"""langchain-ollama, unmodified, with langchain's own integration tests."""

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("langchain_ollama")
pytest.importorskip("langchain_tests")

from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama, OllamaLLM

from tests.clients.conftest import Served
from tests.clients.langchain_chat import ChatTests


def client_kwargs(served: Served) -> dict[str, object]:
    return {"headers": {"Authorization": f"Bearer {served.key}"}}


class TestChat(ChatTests):
    """Over `/api/chat`."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        kind: type[BaseChatModel] = ChatOllama
        return kind

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "model": f"{self.served.model}:latest",
            "base_url": self.served.url,
            "client_kwargs": client_kwargs(self.served),
            "temperature": 0,
            "repeat_penalty": 1.3,  # without it, so small a model writes one sentence for ever
            "num_predict": self.max_tokens,
        }

    @property
    def has_tool_calling(self) -> bool:
        """Ollama's API cannot demand a call, and a model of 135 million parameters makes none of
        its own accord. What is called and sent back is in tests/server/test_ollama.py."""
        return False


def test_a_prompt_is_continued(served: Served) -> None:
    model = OllamaLLM(
        model=served.model,
        base_url=served.url,
        client_kwargs=client_kwargs(served),
        validate_model_on_init=True,
        num_predict=8,
        temperature=0,
    )
    assert model.invoke("Say hello.") == "".join(model.stream("Say hello."))
