"""Content Credentials (C2PA): what every result says of itself, sealed so that a change shows."""
