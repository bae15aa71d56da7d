"""One suite per file, and the only place in the house where a simulator is imported (inside a suite's methods)."""
