"""The gRPC core: routes, authenticates, meters."""
