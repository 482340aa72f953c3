"""One head's motion carried over to another."""
