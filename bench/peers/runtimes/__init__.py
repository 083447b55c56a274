"""One file a peer. Each has the same three functions, and the worker calls them in this order:

threads(count) sets how many threads the runtime uses and returns how many it says it uses;
version() is what the report prints;
build(work, arrays, folder) returns a Prepared, or raises Unsupported. `folder` is for model files.
"""
