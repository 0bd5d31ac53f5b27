"""Upstream providers, one file per dialect, behind the seam of `core.providers.base`."""
