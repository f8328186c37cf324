"""The rules of one endpoint; no I/O but a look at a socket."""
