"""``python -m lab_tui`` is ``lab-tui``."""

from lab_tui.cli.app import main

if __name__ == "__main__":
    main()
