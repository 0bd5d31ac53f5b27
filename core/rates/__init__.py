"""Limits per minute: what a core may let through of each, told to callers and taken from the store ahead of need."""
