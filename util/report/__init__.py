"""HTML pages: a result's, a training's, and their parts."""
