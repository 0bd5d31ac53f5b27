"""The embedded default: a small real model, served by a child process on this machine."""
