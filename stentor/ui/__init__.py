"""A page in Gradio for any Stentor server: a client of its HTTP API and nothing else."""
