"""Calls that gRPC's library does not carry: within one process, or several over one stream (`RelayService`).

`wire` is what lies between a call's two ends, `client` the call as grpc.aio would show it to its caller, `metadata`
which metadata may travel, `memory` what large messages leave behind. For WorldRouter's own halves; clients want
`worldrouter.client`.
"""
