"""langchain-anthropic, unmodified, with langchain's own integration tests."""

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("langchain_anthropic")
pytest.importorskip("langchain_tests")

from langchain_anthropic import ChatAnthropic, _client_utils
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.clients.conftest import Served


class TestChatAnthropic(ChatModelIntegrationTests):  # type: ignore[misc]  # untyped where not installed
    """Over `/v1/messages`. The starter sees no images, so nothing is asked about them."""

    @pytest.fixture(autouse=True)
    def _served(self, served: Served) -> None:
        self.served = served
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
            "max_tokens": 200,
        }

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return self.served.model
