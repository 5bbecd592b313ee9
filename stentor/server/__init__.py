"""The OpenAI-compatible HTTP front door; it is handed a pipeline and never builds one."""
