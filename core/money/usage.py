"""Token counts: as an upstream reports them, and estimated where it does not.

OpenAI's shape: cached tokens are a subset of the prompt's, reasoning tokens a subset of the completion's
(https://platform.openai.com/docs/api-reference/chat/object).
"""

from __future__ import annotations

import msgspec

MAX_PLAUSIBLE_TOKENS = 100_000_000
"""Counts above this are not counts: such usage is treated as not reported."""


class TokenCounts(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one completion, each 0 or more. `estimated` when no upstream counted them."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    estimated: bool = False


NO_TOKENS = TokenCounts()


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None

    def cached(self) -> int:
        """Tokens of the prompt that were read from a cache, under whatever name; OpenAI's counts before others."""
        of_prompt = self.prompt_tokens_details
        named = None if of_prompt is None else of_prompt.cached_tokens
        if named is None:
            named = self.cached_tokens if self.prompt_cache_hit_tokens is None else self.prompt_cache_hit_tokens
        return named or 0


_usage_decoder = msgspec.json.Decoder(_Usage)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_usage(raw: bytes | msgspec.Raw) -> TokenCounts | None:
    """The counts of a `usage` object; None when it lacks them, or they are negative or absurd.

    An explicit 0 is 0. Cached and reasoning tokens beyond what they are part of are clamped to it; but reasoning that
    an upstream counts in the total alone is output, and paid as such: xAI's
    (https://docs.x.ai/docs/key-information/consumption-and-rate-limits), and Gemini's, which gives no details
    (https://github.com/mozilla-ai/any-llm/issues/1290). Not where cached tokens may be what the total has beyond.
    Cached tokens stand outside the details, as `prompt_cache_hit_tokens`, with DeepSeek
    (https://api-docs.deepseek.com/guides/kv_cache), and as `cached_tokens` with Kimi
    (https://platform.kimi.ai/docs/api/chat).
    """
    try:
        usage = _usage_decoder.decode(raw)
    except msgspec.MsgspecError:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if not (0 <= prompt <= MAX_PLAUSIBLE_TOKENS and 0 <= completion <= MAX_PLAUSIBLE_TOKENS):
        return None
    of_prompt = usage.prompt_tokens_details or _PromptDetails()
    of_completion = usage.completion_tokens_details or _CompletionDetails()
    told_cached = usage.cached()
    cached = _part(told_cached, prompt)
    total, reasoning = usage.total_tokens, of_completion.reasoning_tokens
    if total is None or not 0 <= total <= 2 * MAX_PLAUSIBLE_TOKENS:
        total = prompt + completion
    apart = total - prompt - completion
    if apart > 0 and completion + apart <= MAX_PLAUSIBLE_TOKENS:
        beside_prompt = max(told_cached, of_prompt.cache_write_tokens or 0) > prompt
        if reasoning == apart or (reasoning is None and not beside_prompt):
            completion, reasoning = completion + apart, apart
    return TokenCounts(
        prompt=prompt,
        completion=completion,
        total=total,
        cached=cached,
        cache_write=_part(of_prompt.cache_write_tokens, prompt - cached),
        reasoning=_part(reasoning, completion),
    )


def merged_usage(earlier: msgspec.Raw, later: msgspec.Raw) -> msgspec.Raw:
    """One usage object of two: what `later` says, and what only `earlier` said.

    Some upstreams report the input on the first chunk and the output on the last.
    """
    try:
        before, after = _object_decoder.decode(earlier), _object_decoder.decode(later)
    except msgspec.MsgspecError:
        return later
    before.pop("total_tokens", None)
    return msgspec.Raw(msgspec.json.encode(before | after))


def _part(count: int | None, whole: int) -> int:
    return min(max(count or 0, 0), whole)


def usage_json(tokens: TokenCounts) -> bytes:
    """A `usage` object for clients of an upstream that reported none, marked as estimated."""
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d},'
        b'"completion_tokens_details":{"reasoning_tokens":%d},"estimated":%s}'
        % (
            tokens.prompt,
            tokens.completion,
            tokens.prompt + tokens.completion,
            tokens.cached,
            tokens.reasoning,
            b"true" if tokens.estimated else b"false",
        )
    )
