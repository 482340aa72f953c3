"""What landmarks and regions of a face mean."""
