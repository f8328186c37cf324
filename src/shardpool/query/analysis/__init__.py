"""What a statement does with which rows."""
