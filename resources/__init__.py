"""What the assets stand on: storage, compute, tracking, registry, endpoints.

A folder each, the same file names in each: `base.py` holds the algorithm, `local.py` (and later `aws.py`,
`azure.py`) the few primitives that differ. `profiles.py` is the only place that knows which of them belong together.
"""
