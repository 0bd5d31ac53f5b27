"""The benchmark: what the router costs and adds, beside the same load sent straight to the upstream.

`scripts/bench` runs it, `scripts/soak` its long-running sibling. It needs Linux: it reads `/proc`.
"""
