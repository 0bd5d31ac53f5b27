"""RelayService: many RPCs over one stream, run by the same handlers as all others.

`servicer` is the RPC, `stream` what one caller's stream carries, `carried` a call as its handler sees it. It has its
handler's task and none beside.

A stream needs no credential, so what one costs is bounded whoever opens it: calls at once, bytes of a request and of
its metadata, frames of a message. A message of the answer waits for the window of its call; when ends of calls and the
like pile up unread, the stream's requests are not read on until they are taken.
"""
