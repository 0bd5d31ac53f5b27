"""RelayService: many RPCs over one stream, run by the same handlers as all others.

`servicer` is the RPC, `stream` what one caller's stream carries, `carried` a call as its handler sees it. It has its
handler's task and none beside.
"""
