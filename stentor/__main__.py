"""`python -m stentor` is the `stentor` command."""

from stentor.cli.main import run

if __name__ == "__main__":
    run()
