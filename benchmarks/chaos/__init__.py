"""What becomes of conversations whose workers die again and again."""
