"""WorldRouter's published API: the client and, under `worldrouter.v1`, the generated stubs."""
