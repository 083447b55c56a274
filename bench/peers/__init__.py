"""fastconv beside other runtimes, each in a process and an environment of its own; installed as fastconv.peers.

`worker`, `work`, `recurrent` and `runtimes` are imported in every environment, under the name `peers` and without
fastconv, so imports among them are relative, and of what they need only NumPy is sure to be there.
"""
