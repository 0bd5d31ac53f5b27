"""LangChain's standard tests of a chat model, whole, through ChatOpenAI."""

from types import SimpleNamespace
from typing import Any

import pytest
from expected import BARE, BASE_URL, CACHED_TOKENS, KEY, MODEL, OPENROUTER, PROMPT, REASONING_TOKENS
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of attachments load them from the web; here they get bytes of the same kind."""
    fake = SimpleNamespace(get=lambda url, **_: SimpleNamespace(content=f"the bytes of {url}".encode()))
    monkeypatch.setattr(chat_models, "httpx", fake)


@pytest.fixture(scope="module")
def vcr_cassette_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the one test that wants a recording keeps it."""
    return str(tmp_path_factory.mktemp("cassettes"))


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    return {"record_mode": "once"}


class TestChatOpenAI(ChatModelIntegrationTests):
    chat_model_class = ChatOpenAI
    model_override_value = OPENROUTER
    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_audio_inputs = True
    supports_anthropic_inputs = True
    enable_vcr_tests = True
    supported_usage_metadata_details = {  # noqa: RUF012
        kind: ["audio_input", "audio_output", "reasoning_output", "cache_read_input"] for kind in ("invoke", "stream")
    }

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": BASE_URL, "api_key": KEY, "max_retries": 0, "stream_usage": True}

    def _detailed(self, *, stream: bool) -> AIMessage:
        """An answer of the upstream that details usage."""
        model = ChatOpenAI(**self.chat_model_params | {"model": OPENROUTER})
        if not stream:
            return model.invoke(PROMPT)
        first, *others = model.stream(PROMPT)
        return sum(others, first)

    def invoke_with_audio_input(self, *, stream: bool = False) -> AIMessage:
        return self._detailed(stream=stream)

    def invoke_with_audio_output(self, *, stream: bool = False) -> AIMessage:
        return self._detailed(stream=stream)

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        message = self._detailed(stream=stream)
        assert message.usage_metadata["output_token_details"]["reasoning"] == REASONING_TOKENS
        return message

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        message = self._detailed(stream=stream)
        assert message.usage_metadata["input_token_details"]["cache_read"] == CACHED_TOKENS
        return message


class TestOnABareUpstream(TestChatOpenAI):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return super().chat_model_params | {"model": BARE}
