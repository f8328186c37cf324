"""What is asked of and done to the fleet itself."""
