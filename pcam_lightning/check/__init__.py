"""Check of finished folders, as a command."""
