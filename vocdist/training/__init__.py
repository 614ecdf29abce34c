"""One training loop, two tasks that plug into it, and what a run keeps."""
