"""``python -m trainer COMMAND …``"""

from trainer.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
