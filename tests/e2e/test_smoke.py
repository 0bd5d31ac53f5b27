"""A stranger's first minutes."""

from __future__ import annotations

import openai


def test_a_whole_answer_comes_from_the_real_model_and_is_charged(router) -> None:
    """The SDK gets an answer of the embedded model, and its request id names the charge."""
    client = openai.OpenAI(base_url=f"{router.http}/v1", api_key=router.key)
    answer = client.chat.completions.create(
        model="smollm2-135m-instruct", messages=[{"role": "user", "content": "Say hello."}], max_tokens=16
    )
    assert answer.choices[0].message.content
    assert answer.id == f"chatcmpl-{answer._request_id}"
    record = router.command("usage", answer._request_id)
    assert record["status"] == "complete"
    assert answer.usage is not None
    assert record["cost_nano_usd"] == (answer.usage.prompt_tokens * 50 + answer.usage.completion_tokens * 100)
