"""A chain on another machine, and what a worker there does: messages over TCP, sessions that may break."""
