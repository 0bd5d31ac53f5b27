"""Published prices beside configured ones: for `worldrouter prices` and scripts/presets, not for the router itself."""
