"""The expiry watch: reads certificates wherever they are, shows when they end, and announces it in time.

`watch.Watch` is the whole, for any process: `certplane watch` runs it alone, and a control plane can run it beside its
other tasks. See its docstring.
"""
