"""Finding faces, their dense landmarks and the person's matte in pictures."""
