"""What differs between threads and tasks, in pairs, each under one interface; nothing here knows PostgreSQL."""
