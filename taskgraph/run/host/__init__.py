"""What the processes of a host share."""
