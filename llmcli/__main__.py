"""``python -m llmcli`` and the ``llmcli`` script."""

from __future__ import annotations


def main() -> None:
    """Run the command line on ``sys.argv``; always ends in SystemExit."""
    from llmcli.cli.main import cli

    cli(prog_name="llmcli")


if __name__ == "__main__":
    main()
