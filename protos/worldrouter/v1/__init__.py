"""Stubs generated from the .proto files beside them; version 1 of the API."""
