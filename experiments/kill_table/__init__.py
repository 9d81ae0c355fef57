"""Wrong and right backward passes, and the table that compares the tools which judge them."""
