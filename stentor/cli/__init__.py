"""The command line, one command per file; errors become one line on stderr."""
