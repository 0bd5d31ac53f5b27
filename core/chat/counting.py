"""Token counts of one request where its upstream reported none, or stopped before it reported all."""

from __future__ import annotations

import msgspec

from core.chat.chunks import ChunkRewriter
from core.money.ratios import PER_TOKENS, TextRatio
from core.money.usage import TokenCounts


class Counting(msgspec.Struct, frozen=True, gc=False):
    """Estimates for one request: `most_output` tokens are what it may produce, `media_tokens` what its
    images and the like count as."""

    ratio: TextRatio
    text_bytes: int
    media_tokens: int
    most_output: int

    def estimated(self, output_bytes: int) -> TokenCounts:
        """The input, and so many bytes of output."""
        prompt = self.text_bytes * PER_TOKENS // self.ratio.mean_input + self.media_tokens + 1
        completion = self._output_tokens(output_bytes)
        return TokenCounts(prompt=prompt, completion=completion, total=prompt + completion, estimated=True)

    def of_stream(self, stream: ChunkRewriter) -> TokenCounts:
        """What a stream has come to: as the upstream reported it, and an estimate of what it said after that."""
        reported = stream.usage
        if reported is None:
            return self.estimated(stream.text_bytes)
        later = self._output_tokens(stream.text_bytes - stream.counted_bytes)
        if later == 0:
            return reported
        completion = reported.completion + later
        return msgspec.structs.replace(
            reported, completion=completion, total=reported.prompt + completion, estimated=True
        )

    def _output_tokens(self, output_bytes: int) -> int:
        """An estimate of these bytes of output, at most what the request may produce."""
        return min(-(-output_bytes * PER_TOKENS // self.ratio.mean_output), self.most_output)
