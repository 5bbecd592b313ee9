"""The autoregressive loop: who runs next, who owns which block, and one decode step of the whole batch."""
