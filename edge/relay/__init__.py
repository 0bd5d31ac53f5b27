"""Chats over one stream to each core instead of an RPC each (`worldrouter.v1.RelayService`).

`channel` is what stubs see, `streams` keeps a stream to each core, `stream` is one of them, `call` a call on it.

What waits at the same time travels together, so a chat costs about a third of an RPC of its own. It means the same:
metadata, deadline, cancellation and status are the call's own, and one whose client reads slowly stops at its window
while the others go on. Where there is no stream (a core that is older, full, or not found yet; a request that is too
large) a chat is an RPC. A stream that breaks ends the calls on it with UNAVAILABLE; those of which no initial metadata
have come are made once more as an RPC, by the rule that retries of RPCs follow: the core has not called an upstream.
"""
