"""One chat, from its body to its answer."""
