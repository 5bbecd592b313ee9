"""Load generators and reports for any OpenAI-compatible speech server, and for our engine alone."""
