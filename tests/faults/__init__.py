"""What the router promises when servers are killed, frozen and cut off, each promise with a test that can fail."""
