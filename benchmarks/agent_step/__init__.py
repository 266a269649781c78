"""What one iteration of a durable agent loop costs, ours and the rivals'."""
