"""The compiled run and all that goes with it; its public names are in `funcnet`."""
