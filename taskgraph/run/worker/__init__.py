"""The main thread of a rank."""
