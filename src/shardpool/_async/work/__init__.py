"""Units of work: where each one begins and ends."""
