"""To a host and back: connections, host keys, and what a host is like before it is used."""
