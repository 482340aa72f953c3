"""The maker of the built-in demo clip, which is test data."""
