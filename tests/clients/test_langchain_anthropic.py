"""langchain-anthropic, unmodified, with langchain's own integration tests."""

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("langchain_anthropic")
pytest.importorskip("langchain_tests")

from langchain_anthropic import ChatAnthropic, _client_utils

from tests.clients.langchain_chat import ChatTests


class TestChatAnthropic(ChatTests):
    """Over `/v1/messages`."""

    @pytest.fixture(autouse=True)
    def _own_client(self) -> None:
        # langchain shares one among event loops, and each test has its own.
        _client_utils._get_default_async_httpx_client.cache_clear()

    @property
    def chat_model_class(self) -> object:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "model": self.served.model,
            "base_url": self.served.url,
            "api_key": self.served.key,
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True
