"""Changed copies of training clips: moved heads, jittered conditioning."""
