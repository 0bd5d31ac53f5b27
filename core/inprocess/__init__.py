"""gRPC within one process: a `grpc.aio.Channel` whose calls go straight to the servicers of an `InProcessServer`.

    server = InProcessServer()
    add_RawChatServiceServicer_to_server(servicer, server)
    stub = RawChatServiceStub(server.channel())

What a call means is what it means over a socket: metadata, deadlines, cancellation from either side, statuses with
details and trailers, initial metadata before the first message, a handler that begins at once and runs ahead of its
reader up to a window. Each call has one task, its handler's, in a copy of the context in which the server was made:
no context variable leaks either way, `asyncio.current_task()` is the handler's, and a client that is cancelled or
runs into its deadline is answered at once, whatever its handler still does. Driving a handler from its client's task
instead would save 2 of 8 microseconds a call and keep none of this. A message costs no task, queue or timer.

Messages pass by reference: they are immutable once handed over. A message of another class than the method's (None,
bytes, a message of another service) is serialized and parsed, as are all with `copy_messages`.

Where it differs from grpc.aio over a socket:

- `peer()` is "inprocess:", `auth_context()` names the transport security type "inprocess"; no user-agent is added,
  and invocation metadata are plain pairs.
- Initial metadata of a unary call are there as soon as they are sent; grpc.aio shows them with the response.
- Metadata has no size limit. Messages have one only when `max_message_bytes` says so.
- A status comes at once where a socket leaves the client waiting for its deadline: a handler that was cancelled by
  someone else or raised CancelledError (CANCELLED), `abort` with OK or with a str under a "-bin" key (UNKNOWN), a
  stream called as unary or the other way round (UNIMPLEMENTED).
- Illegal request metadata ends unary calls with INTERNAL as it ends streams; grpc.aio raises a private error from the
  unary ones and never finishes them. A value or a request of the wrong type is a TypeError when the call is made.
- A timeout of zero has passed. A second read while one waits is a UsageError.
- Metadata keys that gRPC keeps to itself are dropped on both sides; "grpc-timeout" sets no deadline.
- What races over a socket is settled here: a client's cancel or deadline drops what it has not read; a handler that
  has not begun by then never begins; the window is counted in messages.
- A handler that is a plain function runs on the event loop, not in a thread. Client-streaming RPCs are not served.
"""

from core.inprocess.server import InProcessServer

__all__ = ["InProcessServer"]
