"""What a process of ours is, apart from its work: ports, signals, logs, workers."""
