"""``python -m llmcli`` and the ``llmcli`` script."""

from __future__ import annotations


def main() -> None:
    """Run the command line on ``sys.argv``; always ends in SystemExit."""
    try:
        from llmcli.cli.main import cli
    except KeyboardInterrupt:  # before the boundary that else takes care of it is there
        raise SystemExit(130) from None
    cli(prog_name="llmcli")


if __name__ == "__main__":
    main()
