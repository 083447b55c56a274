"""fastconv beside other runtimes, each in a process and an environment of its own: `make bench-conv`, `bench-rnn`."""
