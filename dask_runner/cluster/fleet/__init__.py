"""The hosts as one: commands, files and processes on all of them."""
