"""What a sidecar thread and a keeper have in common."""
