"""What each pane says: pure functions from a snapshot to lines, so that they test without a screen."""
