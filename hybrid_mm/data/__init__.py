"""What a user's data are, and what can be wrong with them."""
