"""langchain-openai, unmodified, with langchain's own integration tests."""

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("langchain_openai")
pytest.importorskip("langchain_tests")

import openai
from langchain_openai import ChatOpenAI

from tests.clients.langchain_chat import ChatTests


class OfOpenAI(ChatTests):
    @property
    def chat_model_class(self) -> object:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "model": self.served.model,
            "base_url": f"{self.served.url}/v1",
            "api_key": self.served.key,
            "temperature": 0,
            # Without it so small a model repeats itself until it is cut.
            "extra_body": {"frequency_penalty": 1.0} if self.is_json else {},
            "max_retries": 0,
            "max_completion_tokens": self.max_tokens,
            "stream_usage": True,
            # langchain shares one among event loops, and each test has its own.
            "http_async_client": openai.DefaultAsyncHttpxClient(),
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @pytest.mark.xfail(run=False, reason="The starter model spells no Japanese.")
    def test_unicode_tool_call_integration(self, model: object) -> None:
        super().test_unicode_tool_call_integration(model)


class TestChatCompletions(OfOpenAI):
    """Over `/v1/chat/completions`."""


class TestResponses(OfOpenAI):
    """Over `/v1/responses`."""

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {**super().chat_model_params, "use_responses_api": True}
