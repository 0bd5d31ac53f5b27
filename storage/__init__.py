"""Durable state behind narrow interfaces; knows nothing of gRPC, HTTP or routing."""
