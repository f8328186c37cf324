"""`shardpool demo`: real flights on real servers, end to end, with every count compared with the file's."""
