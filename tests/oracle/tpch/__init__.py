"""TPC-H: eight tables and the 22 queries, on the fleet and on one PostgreSQL that holds all rows."""
