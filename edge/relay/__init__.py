"""Chats over one stream to each core instead of an RPC each (`worldrouter.v1.RelayService`).

`channel` is what stubs see, `streams` keeps a stream to each core, `stream` is one of them, `call` a call on it.
"""
