"""Neural blocks, each with one signature whatever the backend."""
