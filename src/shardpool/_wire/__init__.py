"""libpq on sockets, as generators that a driver runs."""
