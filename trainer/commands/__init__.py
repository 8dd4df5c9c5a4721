"""What the command line does, command by command: printing around the library's functions."""
