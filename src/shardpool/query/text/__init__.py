"""SQL text and its tree: the only room that knows the parser."""
