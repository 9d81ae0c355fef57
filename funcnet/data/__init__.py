"""Data sets: arrays with one leading axis of examples, their order, and files that hold them."""
