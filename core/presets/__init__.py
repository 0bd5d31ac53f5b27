"""Providers whose key may be in the environment: one TOML each, data alone. `scripts/presets` renews them."""
