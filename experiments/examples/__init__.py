"""Examples of one file each: what a user of funcnet would write."""
