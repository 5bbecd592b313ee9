"""What connects workers: bounded first-in-first-out links, in one process or between processes."""
