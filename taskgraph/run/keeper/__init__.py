"""The process that keeps a host."""
