"""From N processes to the first decision."""
