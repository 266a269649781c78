"""What storage costs."""
